"""AUROC and operating points against scipy and brute force; coverage by simulation."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from auditor.stats import (
    StatisticsError,
    auroc,
    auroc_difference,
    auroc_interval,
    clopper_pearson,
    rates_at,
    tpr_at_fpr,
)


def brute_force_delong(negatives: np.ndarray, positives: np.ndarray) -> tuple[float, float]:
    wins = np.array([[float(p > n) + 0.5 * float(p == n) for n in negatives] for p in positives])
    by_positive, by_negative = wins.mean(axis=1), wins.mean(axis=0)
    return wins.mean(), by_positive.var(ddof=1) / len(positives) + by_negative.var(ddof=1) / len(negatives)


def test_auroc_equals_mann_whitney_with_ties() -> None:
    rng = np.random.default_rng(1)
    negatives, positives = rng.integers(0, 6, 40), rng.integers(2, 9, 25)
    reference = stats.mannwhitneyu(positives, negatives).statistic / (40 * 25)
    assert auroc(negatives, positives) == pytest.approx(reference)


def test_delong_interval_uses_the_brute_force_variance() -> None:
    rng = np.random.default_rng(2)
    negatives, positives = np.round(rng.normal(size=30), 1), np.round(rng.normal(1, 1, size=22), 1)
    area, variance = brute_force_delong(negatives, positives)
    interval = auroc_interval(negatives, positives, 0.9)
    half = stats.norm.ppf(0.95) * np.sqrt(variance) / (area * (1 - area))
    ends = 1 / (1 + np.exp(-(np.log(area / (1 - area)) + np.array([-half, half]))))
    assert (interval.low, interval.high) == pytest.approx(tuple(ends))
    assert (interval.method, interval.n) == ("delong-logit", 52)
    assert interval.estimate == pytest.approx(area)


@pytest.mark.parametrize(("method", "shift"), [("delong", 1.0), ("newcombe", 1.0), ("newcombe", 2.5)])
def test_auroc_interval_covers(method: Any, shift: float) -> None:
    """2,000 replications of 40 and 30 normal scores; nominal 95 %, at least 93 %."""
    rng = np.random.default_rng(3)
    true = stats.norm.cdf(shift / np.sqrt(2))
    hits = sum(
        auroc_interval(rng.normal(size=40), rng.normal(shift, 1, size=30), method=method).contains(true)
        for _ in range(2000)
    )
    assert 0.93 <= hits / 2000 <= 0.985


def test_bootstrap_interval_agrees_with_resampled_areas() -> None:
    rng = np.random.default_rng(4)
    negatives, positives = np.round(rng.normal(size=40), 1), np.round(rng.normal(1, 1, size=35), 1)
    ours = auroc_interval(
        negatives, positives, method="bootstrap", rng=np.random.default_rng(5), resamples=8000
    )
    areas = [auroc(rng.choice(negatives, 40), rng.choice(positives, 35)) for _ in range(8000)]
    low, high = np.quantile(areas, [0.025, 0.975])
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=0.05 * (high - low))
    with pytest.raises(StatisticsError, match="rng"):
        auroc_interval(negatives, positives, method="bootstrap")


@pytest.mark.parametrize("method", ["delong", "newcombe", "bootstrap"])
def test_complete_separation_still_has_width(method: Any) -> None:
    interval = auroc_interval(
        [0.0, 1.0, 2.0] * 5, [3.0, 4.0] * 5, method=method, rng=np.random.default_rng(0)
    )
    assert (interval.estimate, interval.high, interval.method) == (1.0, 1.0, "newcombe")
    assert 0.6 < interval.low < 0.95


def test_newcombe_ends_solve_their_equation() -> None:
    rng = np.random.default_rng(6)
    negatives, positives = rng.normal(size=20), rng.normal(1, 1, size=16)
    interval = auroc_interval(negatives, positives, method="newcombe")
    for theta in (interval.low, interval.high):
        spread = 1 + 17 * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        assert abs(interval.estimate - theta) == pytest.approx(
            1.959964 * np.sqrt(theta * (1 - theta) * spread / 320)
        )


def test_paired_difference_covers_and_is_narrower_than_unpaired() -> None:
    """2,000 replications of two correlated detectors; nominal 95 %, at least 93 %."""
    rng = np.random.default_rng(7)
    true = stats.norm.cdf(1.5 / np.sqrt(2 * 1.25)) - stats.norm.cdf(1.5 / np.sqrt(2 * 2.0))
    hits = 0
    for _ in range(2000):
        clean, bad = rng.normal(size=50), rng.normal(1.5, 1, size=40)
        first = clean + 0.5 * rng.normal(size=50), bad + 0.5 * rng.normal(size=40)
        second = clean + rng.normal(size=50), bad + rng.normal(size=40)
        hits += auroc_difference(first, second).contains(true)
    assert 0.93 <= hits / 2000 <= 0.97
    paired = auroc_difference(first, second)
    alone = [brute_force_delong(*detector)[1] for detector in (first, second)]
    assert paired.width < 2 * 1.96 * np.sqrt(sum(alone))
    assert paired.estimate == pytest.approx(auroc(*first) - auroc(*second))


def test_paired_difference_needs_the_same_subjects_and_some_disagreement() -> None:
    with pytest.raises(StatisticsError, match="same subjects"):
        auroc_difference(([1.0, 2.0], [3.0, 4.0]), ([1.0, 2.0, 3.0], [3.0, 4.0]))
    with pytest.raises(StatisticsError, match="alike"):
        auroc_difference(([1.0, 2.0], [3.0, 4.0]), ([1.0, 2.0], [3.0, 4.0]))


def test_rates_at_a_frozen_threshold_are_clopper_pearson() -> None:
    point = rates_at([0.0, 1.0, 2.0, 3.0], [2.0, 3.0, 4.0], 2.0)
    assert point.tpr == clopper_pearson(2, 3)
    assert point.fpr == clopper_pearson(1, 4)
    with pytest.raises(StatisticsError, match="NaN"):
        rates_at([0.0], [1.0], float("nan"))


@pytest.mark.parametrize("fpr", [0.01, 0.05, 0.1, 0.5])
@pytest.mark.parametrize("n", [7, 20, 100, 101])
def test_empirical_threshold_is_the_lowest_that_keeps_the_rate(n: int, fpr: float) -> None:
    negatives = np.random.default_rng(8).permutation(n).astype(float)
    threshold = tpr_at_fpr(negatives, [1.0, 2.0], fpr).threshold
    allowed = [t for t in sorted(negatives) if (negatives > t).mean() <= fpr + 1e-12]
    assert threshold == allowed[0]


@pytest.mark.parametrize(("fpr", "n"), [(0.1, 150), (0.05, 300)])
def test_tpr_at_fpr_covers_the_population_value(fpr: float, n: int) -> None:
    """2,000 replications, nominal 90 %: guaranteed, hence conservative."""
    rng = np.random.default_rng(9)
    true = stats.norm.sf(stats.norm.isf(fpr) - 1.5)
    hits = sum(
        tpr_at_fpr(rng.normal(size=n), rng.normal(1.5, 1, size=60), fpr, 0.9).tpr.contains(true)
        for _ in range(2000)
    )
    assert hits / 2000 >= 0.9


def test_too_few_negatives_prove_nothing_at_a_small_rate() -> None:
    negatives, positives = np.arange(436.0), np.full(50, 1000.0)
    assert tpr_at_fpr(negatives, positives, 0.01).tpr.low == 0.0
    enough = tpr_at_fpr(np.arange(437.0), positives, 0.01)
    assert enough.tpr.low > 0.85
    assert enough.tpr.estimate == 1.0


@pytest.mark.parametrize("call", [auroc, auroc_interval])
def test_bad_scores_are_refused(call: Any) -> None:
    for negatives, positives in (([], [1.0]), ([1.0, np.nan], [1.0, 2.0]), ([[1.0]], [2.0])):
        with pytest.raises(StatisticsError):
            call(negatives, positives)
