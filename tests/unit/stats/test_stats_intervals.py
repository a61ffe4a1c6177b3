"""Proportion intervals against statsmodels and scipy, and their exact coverage."""

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from auditor.stats import Interval, StatisticsError, clopper_pearson, wilson

COUNTS = [(0, 1), (1, 1), (0, 100), (3, 10), (50, 100), (99, 100), (100, 100), (7, 4321)]


@pytest.mark.parametrize(("k", "n"), COUNTS)
@pytest.mark.parametrize("level", [0.8, 0.95, 0.999])
def test_wilson_equals_statsmodels(k: int, n: int, level: float) -> None:
    interval = wilson(k, n, level)
    reference = proportion_confint(k, n, alpha=1 - level, method="wilson")
    assert (interval.low, interval.high) == pytest.approx(reference, abs=1e-12)
    assert (interval.estimate, interval.n, interval.level) == (k / n, n, level)


@pytest.mark.parametrize(("k", "n"), COUNTS)
@pytest.mark.parametrize("level", [0.8, 0.95, 0.999])
def test_clopper_pearson_equals_scipy_on_every_side(k: int, n: int, level: float) -> None:
    for side, alternative in (("two", "two-sided"), ("upper", "less"), ("lower", "greater")):
        interval = clopper_pearson(k, n, level, side)  # type: ignore[arg-type]  # str of a loop over literals
        reference = stats.binomtest(k, n, alternative=alternative).proportion_ci(level, "exact")
        assert (interval.low, interval.high) == pytest.approx((reference.low, reference.high), abs=1e-10)


def test_wilson_one_sided_equals_the_end_of_a_wider_two_sided_one() -> None:
    assert wilson(3, 40, 0.95, "upper").high == pytest.approx(wilson(3, 40, 0.90).high)
    assert wilson(3, 40, 0.95, "lower").low == pytest.approx(wilson(3, 40, 0.90).low)


def test_clopper_pearson_covers_at_every_rate_and_wilson_on_average() -> None:
    n, level = 40, 0.95
    rates = np.linspace(0.001, 0.999, 999)
    outcomes = stats.binom.pmf(np.arange(n + 1)[:, None], n, rates)

    def coverage(intervals: list[Interval]) -> np.ndarray:
        low = np.array([i.low for i in intervals])[:, None]
        high = np.array([i.high for i in intervals])[:, None]
        return np.asarray((outcomes * ((low <= rates) & (rates <= high))).sum(axis=0))

    for side in ("two", "lower", "upper"):
        exact = [clopper_pearson(k, n, level, side) for k in range(n + 1)]
        assert coverage(exact).min() >= level - 1e-12
    assert coverage([wilson(k, n, level) for k in range(n + 1)]).mean() == pytest.approx(level, abs=0.01)


def test_no_trials_give_the_vacuous_interval() -> None:
    for interval in (wilson(0, 0), clopper_pearson(0, 0), clopper_pearson(0, 0, side="upper")):
        assert (interval.low, interval.high, interval.n) == (0.0, 1.0, 0)
        assert math.isnan(interval.estimate)


def test_method_names_the_side() -> None:
    assert clopper_pearson(1, 9, side="upper").method == "clopper-pearson-upper"
    assert wilson(1, 9).method == "wilson"


def test_interval_knows_what_it_contains() -> None:
    interval = wilson(5, 10)
    assert interval.contains(0.5) and not interval.contains(0.99)
    assert interval.width == interval.high - interval.low


@pytest.mark.parametrize(("k", "n"), [(-1, 3), (4, 3), (0, -1), (0.5, 3), (True, 3)])
def test_impossible_counts_are_refused(k: int, n: int) -> None:
    for interval in (wilson, clopper_pearson):
        with pytest.raises(StatisticsError, match="0 <= k <= n"):
            interval(k, n)


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0, math.nan])
def test_impossible_level_is_refused(level: float) -> None:
    with pytest.raises(StatisticsError, match="level"):
        clopper_pearson(1, 2, level)


def test_unknown_side_is_refused() -> None:
    with pytest.raises(StatisticsError, match="side"):
        wilson(1, 2, 0.9, "left")  # type: ignore[arg-type]  # the point of the test


def test_reversed_interval_is_refused() -> None:
    with pytest.raises(StatisticsError, match="low <= high"):
        Interval(1.0, 0.0, 0.95, "none", 0.5, 1)
