"""Power and sample sizes against scipy and statsmodels, and the figures the project quotes."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from auditor.stats import (
    StatisticsError,
    binomial_mde,
    binomial_power,
    binomial_sample_size,
    certify_allowed,
    certify_probability,
    certify_sample_size,
    clopper_pearson,
    paired_mean_mde,
    paired_mean_power,
    zero_event_upper,
)


@pytest.mark.parametrize("n", [1, 5, 20, 137])
@pytest.mark.parametrize(("null", "true"), [(0.1, 0.4), (0.5, 0.7), (0.02, 0.02), (0.0, 0.3)])
@pytest.mark.parametrize("alternative", ["greater", "less"])
def test_binomial_power_sums_the_rejecting_outcomes(
    n: int, null: float, true: float, alternative: Any
) -> None:
    if alternative == "less":
        null, true = 1 - null, 1 - true
    outcomes = np.arange(n + 1)
    rejecting = np.array(
        [stats.binomtest(int(k), n, null, alternative=alternative).pvalue <= 0.05 for k in outcomes]
    )
    result = binomial_power(n, null, true, 0.05, alternative)
    assert result.power == pytest.approx(stats.binom.pmf(outcomes, n, true)[rejecting].sum(), abs=1e-12)
    assert result.size == pytest.approx(stats.binom.pmf(outcomes, n, null)[rejecting].sum(), abs=1e-12)
    assert result.size <= 0.05
    if rejecting.any():
        assert result.critical == (
            outcomes[rejecting].min() if alternative == "greater" else outcomes[rejecting].max()
        )
    else:
        assert result.critical == (n + 1 if alternative == "greater" else -1)


@pytest.mark.parametrize(("n", "null"), [(10, 0.1), (50, 0.5), (400, 0.01)])
def test_minimum_detectable_rate_is_where_power_is_reached(n: int, null: float) -> None:
    rate = binomial_mde(n, null, 0.05, 0.8)
    assert rate is not None and rate > null
    assert binomial_power(n, null, rate).power == pytest.approx(0.8)


def test_minimum_detectable_rate_does_not_exist_if_nothing_rejects() -> None:
    assert binomial_mde(3, 0.5, 0.05) is None


def test_binomial_sample_size_is_the_first_that_suffices() -> None:
    n = binomial_sample_size(0.1, 0.3, 0.05, 0.8)
    powers = [binomial_power(i, 0.1, 0.3).power for i in range(1, n + 1)]
    assert powers[-1] >= 0.8 > max(powers[:-1])
    with pytest.raises(StatisticsError, match="no n up to 10"):
        binomial_sample_size(0.1, 0.11, largest=10)
    with pytest.raises(StatisticsError, match="above"):
        binomial_sample_size(0.3, 0.1)


@pytest.mark.parametrize("n", [2, 8, 100])
@pytest.mark.parametrize("effect", [-0.7, 0.0, 0.3, 1.1])
@pytest.mark.parametrize(
    ("alternative", "their_name"), [("two-sided", "two-sided"), ("greater", "larger"), ("less", "smaller")]
)
def test_paired_power_equals_statsmodels(n: int, effect: float, alternative: Any, their_name: str) -> None:
    reference = TTestPower().power(effect, n, 0.05, alternative=their_name)
    if np.isnan(reference):  # the library gives up far out in the tail, where power is 1
        assert abs(effect) * np.sqrt(n) > 10
        reference = 1.0
    assert paired_mean_power(n, 2 * effect, 2.0, 0.05, alternative) == pytest.approx(reference, abs=1e-6)


@pytest.mark.parametrize("n", [5, 30, 500])
@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_paired_mde_inverts_power_and_scales_with_the_deviation(n: int, alternative: Any) -> None:
    effect = paired_mean_mde(n, 1.0, 0.01, 0.9, alternative)
    sign = -1 if alternative == "less" else 1
    assert paired_mean_power(n, sign * effect, 1.0, 0.01, alternative) == pytest.approx(0.9, abs=1e-6)
    assert paired_mean_mde(n, 3.0, 0.01, 0.9, alternative) == pytest.approx(3 * effect)


def test_paired_power_by_simulation() -> None:
    """4,000 replications of 12 pairs with effect 0.8 deviations; three s.e. are 2.2 %."""
    rng = np.random.default_rng(1)
    p = stats.ttest_1samp(rng.normal(0.8, 1, size=(4000, 12)), 0, axis=1).pvalue
    assert paired_mean_power(12, 0.8, 1.0) == pytest.approx((p <= 0.05).mean(), abs=0.022)


def test_nothing_seen_is_not_nothing_there() -> None:
    assert zero_event_upper(100) == pytest.approx(0.030, abs=5e-4)
    assert zero_event_upper(300) == pytest.approx(0.010, abs=1e-4)
    assert zero_event_upper(300, side="two") == pytest.approx(0.012, abs=3e-4)
    assert zero_event_upper(99) <= 0.0301
    assert zero_event_upper(0) == 1.0
    for n in (1, 10, 100, 1000):
        assert zero_event_upper(n) == pytest.approx(clopper_pearson(0, n, side="upper").high)
        assert zero_event_upper(n, side="two") == pytest.approx(clopper_pearson(0, n).high)
        assert zero_event_upper(n) <= 3 / n


def test_certifying_one_percent_needs_what_the_project_says() -> None:
    assert certify_sample_size(0.01, 0, side="two") == 368
    assert certify_sample_size(0.01, 0) == 299
    assert 620 <= certify_sample_size(0.01, 2) <= 630
    assert certify_probability(630, 2, 0.001) > 0.97


@pytest.mark.parametrize("allowed", [0, 1, 5])
@pytest.mark.parametrize("side", ["upper", "two"])
def test_certify_sample_size_is_the_first_whose_bound_suffices(allowed: int, side: Any) -> None:
    n = certify_sample_size(0.05, allowed, 0.9, side)
    assert clopper_pearson(allowed, n, 0.9, side).high <= 0.05
    assert clopper_pearson(allowed, n - 1, 0.9, side).high > 0.05
    assert certify_allowed(n, 0.05, 0.9, side) == allowed
    assert certify_allowed(n - 1, 0.05, 0.9, side) == (allowed - 1 if allowed else None)


def test_too_few_trials_certify_nothing() -> None:
    assert certify_allowed(0, 0.01) is None
    assert certify_allowed(298, 0.01) is None
    assert certify_allowed(299, 0.01) == 0


def test_certify_probability_is_the_binomial_one() -> None:
    assert certify_probability(50, 3, 0.02) == pytest.approx(stats.binom.cdf(3, 50, 0.02))
    assert certify_probability(50, 50, 1.0) == 1.0


def test_impossible_designs_are_refused() -> None:
    for call in (
        lambda: binomial_power(0, 0.1, 0.2),
        lambda: binomial_power(5, 1.1, 0.2),
        lambda: binomial_power(5, 0.1, 0.2, alternative="two-sided"),  # type: ignore[arg-type]  # the point
        lambda: paired_mean_power(1, 1.0, 1.0),
        lambda: paired_mean_power(5, 1.0, 0.0),
        lambda: paired_mean_power(5, math.inf, 1.0),
        lambda: paired_mean_mde(5, 1.0, 0.5, 0.4),
        lambda: certify_sample_size(0.0),
        lambda: certify_sample_size(1e-9),
        lambda: certify_sample_size(0.1, -1),
        lambda: zero_event_upper(5, side="lower"),  # type: ignore[arg-type]  # the point of the test
    ):
        with pytest.raises(StatisticsError):
            call()
