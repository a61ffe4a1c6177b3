"""Correction of judged rates: algebra, coverage by simulation, refusals."""

import numpy as np
import pytest
from scipy.optimize import minimize

from auditor.stats import (
    StatisticsError,
    clopper_pearson,
    correct_rates,
    corrected_difference,
    project_to_simplex,
    rogan_gladen,
    rogan_gladen_interval,
)
from auditor.stats.confusion import _inverse_column

JUDGE = np.array([[0.90, 0.07, 0.03], [0.10, 0.85, 0.05], [0.05, 0.15, 0.80]])


def calibrate(rng: np.random.Generator, judge: np.ndarray, items: int) -> np.ndarray:
    return np.stack([rng.multinomial(items, row) for row in judge])


def test_exact_counts_are_inverted_exactly() -> None:
    truth = np.array([0.2, 0.5, 0.3])
    corrected = correct_rates(
        np.round(1_000_000 * truth @ JUDGE), np.round(100 * JUDGE), rng=np.random.default_rng(1)
    )
    assert corrected.rates == pytest.approx(truth, abs=1e-5)
    assert corrected.rates.sum() == pytest.approx(1)


def test_binary_correction_equals_rogan_gladen() -> None:
    calibration = [[95, 5], [20, 80]]
    interval = rogan_gladen_interval(40, 100, calibration, rng=np.random.default_rng(2))
    assert interval.estimate == pytest.approx(rogan_gladen(40, 100, 0.80, 0.95))
    assert interval.estimate == pytest.approx((0.4 + 0.95 - 1) / 0.75)
    assert interval.contains(interval.estimate) and interval.n == 100


def test_rogan_gladen_stays_in_range_and_needs_a_judge() -> None:
    assert rogan_gladen(0, 50, 0.9, 0.9) == 0.0
    assert rogan_gladen(50, 50, 0.9, 0.9) == 1.0
    assert rogan_gladen(7, 50, 1.0, 1.0) == pytest.approx(0.14)
    with pytest.raises(StatisticsError, match="guessing"):
        rogan_gladen(5, 10, 0.5, 0.5)
    with pytest.raises(StatisticsError, match="one judged item"):
        rogan_gladen(0, 0, 0.9, 0.9)


@pytest.mark.parametrize(
    ("prevalence", "specificity", "sensitivity"), [(0.02, 1.0, 1.0), (0.02, 0.93, 0.88), (0.3, 0.93, 0.88)]
)
def test_binary_interval_covers(prevalence: float, specificity: float, sensitivity: float) -> None:
    """2,000 replications, 80 calibration items a class, 120 judged; nominal 95 %."""
    rng = np.random.default_rng(3)
    judge = np.array([[specificity, 1 - specificity], [1 - sensitivity, sensitivity]])
    hits = 0
    for _ in range(2000):
        positives = int(rng.binomial(120, np.array([1 - prevalence, prevalence]) @ judge[:, 1]))
        interval = rogan_gladen_interval(positives, 120, calibrate(rng, judge, 80), rng=rng, draws=100)
        hits += interval.contains(prevalence)
    assert hits / 2000 >= 0.94


def test_three_class_intervals_cover_where_raw_rates_do_not() -> None:
    """2,000 replications, 100 calibration items a class, 200 judged; nominal 95 % a class."""
    rng = np.random.default_rng(4)
    truth = np.array([0.7, 0.2, 0.1])
    hits, raw = np.zeros(3), np.zeros(3)
    for _ in range(2000):
        counts = rng.multinomial(200, truth @ JUDGE)
        corrected = correct_rates(counts, calibrate(rng, JUDGE, 100), rng=rng, draws=100)
        hits += (corrected.low <= truth) & (truth <= corrected.high)
        rate = counts / 200
        raw += np.abs(rate - truth) <= 1.96 * np.sqrt(rate * (1 - rate) / 200)
    assert (hits / 2000 >= 0.94).all()
    assert (raw / 2000).min() < 0.85


def test_difference_covers_and_is_tighter_than_two_separate_judges_would_allow() -> None:
    """2,000 replications with a small calibration set that both sides share; nominal 95 %."""
    rng = np.random.default_rng(5)
    judge = np.array([[0.92, 0.08], [0.15, 0.85]])
    tuned, base = np.array([0.6, 0.4]), np.array([0.85, 0.15])
    hits = 0
    for _ in range(2000):
        first, second = (rng.multinomial(200, rates @ judge) for rates in (tuned, base))
        result = corrected_difference(first, second, calibrate(rng, judge, 60), rng=rng, draws=100)
        hits += result.interval(1).contains(0.25)
    assert hits / 2000 >= 0.94

    calibration = calibrate(rng, JUDGE, 30)
    same = np.array([3000, 1000, 1000])
    shared = corrected_difference(same, same, calibration, rng=rng)
    alone = correct_rates(same, calibration, rng=rng)
    assert (shared.high - shared.low)[0] < (alone.high - alone.low)[0]
    assert shared.rates == pytest.approx(np.zeros(3))


def test_a_flawless_calibration_set_is_not_a_flawless_judge() -> None:
    few = correct_rates([100, 0], [[20, 0], [0, 20]], rng=np.random.default_rng(6))
    many = correct_rates([100, 0], [[2000, 0], [0, 2000]], rng=np.random.default_rng(6))
    assert few.rates.tolist() == [1.0, 0.0]
    assert few.interval(1).high > many.interval(1).high > 0.005
    assert few.interval(1).low == 0.0


def test_larger_calibration_approaches_the_sampling_error_alone() -> None:
    interval = rogan_gladen_interval(300, 1000, [[10**7, 0], [0, 10**7]], rng=np.random.default_rng(7))
    half = 1.96 * np.sqrt(0.3 * 0.7 / 1000)
    assert (interval.low, interval.high) == pytest.approx((0.3 - half, 0.3 + half), abs=0.003)


def test_projection_is_the_nearest_point_of_the_simplex() -> None:
    rng = np.random.default_rng(8)
    points = rng.normal(0.3, 0.7, size=(6, 4))
    for point, projected in zip(points, project_to_simplex(points), strict=True):
        reference = minimize(
            lambda x, p=point: ((x - p) ** 2).sum(),
            np.full(4, 0.25),
            bounds=[(0, 1)] * 4,
            constraints={"type": "eq", "fun": lambda x: x.sum() - 1},
            method="SLSQP",
            tol=1e-12,
        ).x
        assert projected == pytest.approx(reference, abs=1e-5)


def test_batches_do_not_change_the_result_beyond_its_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = correct_rates([50, 50], [[90, 10], [10, 90]], rng=np.random.default_rng(9))
    monkeypatch.setattr("auditor.stats._common.BATCH_VALUES", 2000)
    parts = correct_rates([50, 50], [[90, 10], [10, 90]], rng=np.random.default_rng(9))
    assert parts.low == pytest.approx(whole.low, abs=0.01) and parts.high == pytest.approx(
        whole.high, abs=0.01
    )


def test_perfect_large_calibration_leaves_clopper_pearson() -> None:
    for k in (0, 3, 50):
        interval = rogan_gladen_interval(
            k, 100, [[10**8, 0], [0, 10**8]], rng=np.random.default_rng(10), draws=40_000
        )
        exact = clopper_pearson(k, 100)
        assert (interval.low, interval.high) == pytest.approx((exact.low, exact.high), abs=0.003)


def test_two_class_ends_equal_the_melded_quantiles_drawn_by_hand() -> None:
    rng = np.random.default_rng(11)
    k, n, fp, negatives, tp, positives = 30, 120, 6, 80, 70, 80
    draws = 200_000
    sensitivity = {
        "low": rng.beta(tp + 1, positives - tp, draws),
        "high": rng.beta(tp, positives - tp + 1, draws),
    }
    false_alarm = {
        "low": rng.beta(fp + 1, negatives - fp, draws),
        "high": rng.beta(fp, negatives - fp + 1, draws),
    }
    rate = {"low": rng.beta(k, n - k + 1, draws), "high": rng.beta(k + 1, n - k, draws)}
    ends = [
        np.quantile((rate[e] - false_alarm[e]) / (sensitivity[e] - false_alarm[e]), q)
        for e, q in (("low", 0.025), ("high", 0.975))
    ]
    calibration = [[negatives - fp, fp], [positives - tp, tp]]
    interval = rogan_gladen_interval(k, n, calibration, rng=np.random.default_rng(12), draws=200_000)
    assert (interval.low, interval.high) == pytest.approx(tuple(ends), abs=0.003)


@pytest.mark.parametrize(
    ("counts", "calibration", "words"),
    [
        ([1, 2], [[1, 2]], "K x K"),
        ([1], [[1]], "K x K"),
        ([0, 0], [[9, 1], [1, 9]], "one judged item"),
        ([1, 2], [[9, 1], [0, 0]], "calibration items"),
        ([1, 2], [[5, 5], [5, 5]], "cannot tell"),
        ([1, 2], [[0, 9], [9, 0]], "cannot tell"),
        ([1, -2], [[9, 1], [1, 9]], "whole numbers"),
        ([1, 0.5], [[9, 1], [1, 9]], "whole numbers"),
        ([1, 2], [[0.9, 0.1], [0.1, 0.9]], "whole numbers"),
        ([1, np.nan], [[9, 1], [1, 9]], "whole numbers"),
    ],
)
def test_what_cannot_be_corrected_is_refused(
    counts: list[float], calibration: list[list[float]], words: str
) -> None:
    with pytest.raises(StatisticsError, match=words):
        correct_rates(counts, calibration, rng=np.random.default_rng(0))


def test_drawn_judges_no_better_than_guessing_are_marked_and_the_others_inverted() -> None:
    good, swapped, blind = [[0.9, 0.1], [0.2, 0.8]], [[0.2, 0.8], [0.9, 0.1]], [[0.5, 0.5], [0.5, 0.5]]
    weights, informative = _inverse_column(np.array([good, swapped, blind]), 1)
    assert informative.tolist() == [True, False, False]
    assert weights[0] == pytest.approx(np.linalg.inv(np.array(good).T)[1])


def test_a_handful_of_calibration_items_leaves_everything_possible() -> None:
    interval = rogan_gladen_interval(50, 100, [[2, 1], [1, 2]], rng=np.random.default_rng(13))
    assert (interval.low, interval.high) == (0.0, 1.0)
