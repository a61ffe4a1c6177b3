"""Paired tests against statsmodels, scipy and enumeration."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from auditor.stats import (
    StatisticsError,
    mcnemar_exact,
    mcnemar_outcomes,
    paired_mean_difference,
    sign_flip_test,
    wilcoxon_signed_rank,
)

ALTERNATIVES: list[Any] = ["two-sided", "greater", "less"]


@pytest.mark.parametrize(("b", "c"), [(0, 0), (0, 1), (5, 5), (1, 9), (12, 3), (200, 150)])
def test_mcnemar_equals_statsmodels(b: int, c: int) -> None:
    reference = mcnemar([[10, b], [c, 20]], exact=True).pvalue
    assert mcnemar_exact(b, c).p_value == pytest.approx(reference)


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_mcnemar_equals_the_binomial_test_on_each_side(alternative: Any) -> None:
    result = mcnemar_exact(4, 13, alternative)
    assert result.p_value == pytest.approx(stats.binomtest(4, 17, alternative=alternative).pvalue)
    assert (result.statistic, result.n) == (-9.0, 17)


def test_mcnemar_counts_discordant_pairs_itself() -> None:
    first = np.array([True, True, True, False, False, True])
    second = np.array([True, False, False, False, True, False])
    assert mcnemar_outcomes(first, second) == mcnemar_exact(3, 1)


def test_mcnemar_refuses_what_is_not_paired_outcomes() -> None:
    with pytest.raises(StatisticsError, match="boolean"):
        mcnemar_outcomes([0, 1], [1, 1])
    with pytest.raises(StatisticsError, match="aligned"):
        mcnemar_outcomes(np.array([True]), np.array([True, False]))
    with pytest.raises(StatisticsError, match="0 <= k <= n"):
        mcnemar_exact(-1, 3)


@pytest.mark.parametrize("alternative", ALTERNATIVES)
@pytest.mark.parametrize("differences", [[0.5], [1, 1, 1, -1], [0.3, -0.2, 0.9, 0.0, 1.4, 0.1, 0.1, -0.6]])
def test_exact_sign_flip_equals_enumeration(differences: list[float], alternative: Any) -> None:
    sample = np.array(differences)
    sums = np.array([np.dot(signs, sample) for signs in product([-1, 1], repeat=sample.size)])
    extreme = {
        "two-sided": np.abs(sums) >= abs(sample.sum()) - 1e-9,
        "greater": sums >= sample.sum() - 1e-9,
        "less": sums <= sample.sum() + 1e-9,
    }[alternative]
    result = sign_flip_test(sample, alternative=alternative)
    assert result.p_value == pytest.approx(extreme.mean())
    assert result.method == "sign-flip-exact"


def test_monte_carlo_sign_flip_agrees_with_scipy() -> None:
    sample = np.random.default_rng(1).normal(0.3, 1, size=40)
    ours = sign_flip_test(sample, rng=np.random.default_rng(2), resamples=40_000)
    theirs = stats.permutation_test(
        (sample, np.zeros(40)),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=40_000,
        rng=np.random.default_rng(3),
    ).pvalue
    assert ours.method == "sign-flip-monte-carlo"
    assert ours.p_value == pytest.approx(theirs, abs=0.008)


def test_sign_flip_keeps_its_level() -> None:
    """2,000 replications of 30 heavy-tailed differences at alpha = 5 %; three standard errors are 1.5 %."""
    rng = np.random.default_rng(4)
    p = [sign_flip_test(rng.standard_t(2, size=30), rng=rng, resamples=199).p_value for _ in range(2000)]
    assert np.mean(np.array(p) <= 0.05) <= 0.065


def test_sign_flip_without_movement_has_nothing_to_say() -> None:
    assert sign_flip_test(np.zeros(50)).p_value == 1.0


def test_sign_flip_wants_a_seeded_generator_for_many_differences() -> None:
    with pytest.raises(StatisticsError, match="rng"):
        sign_flip_test(np.arange(1.0, 30.0))


def test_monte_carlo_p_is_never_zero() -> None:
    result = sign_flip_test(np.full(60, 5.0), rng=np.random.default_rng(0), resamples=99)
    assert result.p_value == pytest.approx(0.01)


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_wilcoxon_agrees_with_enumeration_and_reports_positive_ranks(alternative: Any) -> None:
    sample = np.array([0.3, -0.2, 0.9, 0.0, 1.4, 0.15, -0.6])
    moving = sample[sample != 0]
    ranks = stats.rankdata(np.abs(moving))
    sums = np.array([ranks[np.array(s) > 0].sum() for s in product([-1, 1], repeat=moving.size)])
    observed = ranks[moving > 0].sum()
    upper, lower = (sums >= observed).mean(), (sums <= observed).mean()
    expected = {"greater": upper, "less": lower, "two-sided": min(1, 2 * min(upper, lower))}[alternative]
    result = wilcoxon_signed_rank(sample, alternative)
    assert result.p_value == pytest.approx(expected)
    assert (result.statistic, result.n) == (observed, 6)


def test_wilcoxon_of_zeros_is_no_evidence() -> None:
    assert wilcoxon_signed_rank(np.zeros(9)).p_value == 1.0


def test_paired_mean_difference_equals_scipy() -> None:
    rng = np.random.default_rng(5)
    first, second = rng.normal(size=(2, 25))
    interval = paired_mean_difference(first, second, 0.9)
    reference = stats.ttest_rel(first, second).confidence_interval(0.9)
    assert (interval.low, interval.high) == pytest.approx((reference.low, reference.high))
    assert interval.n == 25
    assert interval.estimate == pytest.approx((first - second).mean())


def test_paired_mean_difference_refuses_pairs_without_spread_or_partner() -> None:
    with pytest.raises(StatisticsError, match="equal"):
        paired_mean_difference([1.0, 2.0], [1.0, 2.0])
    with pytest.raises(StatisticsError, match="one length"):
        paired_mean_difference([1.0, 2.0, 3.0], [1.0, 2.0])
    with pytest.raises(StatisticsError, match="at least 2"):
        paired_mean_difference([1.0], [2.0])


@pytest.mark.parametrize("test", [sign_flip_test, wilcoxon_signed_rank])
def test_bad_differences_are_refused(test: Any) -> None:
    for bad in ([], [1.0, np.nan], [[1.0], [2.0]]):
        with pytest.raises(StatisticsError):
            test(bad)
    with pytest.raises(StatisticsError, match="alternative"):
        test([1.0, 2.0], alternative="both")
