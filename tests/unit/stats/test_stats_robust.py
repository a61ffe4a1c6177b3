"""Robust z against statsmodels, and what happens without spread."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.robust.scale import mad

from auditor.stats import StatisticsError, median_and_deviation, robust_z


def test_deviation_equals_statsmodels_and_scipy() -> None:
    sample = np.random.default_rng(1).standard_t(3, size=101)
    median, deviation = median_and_deviation(sample)
    assert median == np.median(sample)
    assert deviation == pytest.approx(mad(sample))
    assert deviation == pytest.approx(stats.median_abs_deviation(sample, scale="normal"))
    assert robust_z(sample) == pytest.approx((sample - np.median(sample)) / mad(sample))


def test_deviation_estimates_sigma_of_a_normal_despite_outliers() -> None:
    sample = np.random.default_rng(2).normal(5, 2, size=100_000)
    sample[:1000] = 1e6
    assert median_and_deviation(sample)[1] == pytest.approx(2, abs=0.05)


def test_reference_judges_other_values() -> None:
    assert robust_z([3.0], [-1.0, 0.0, 1.0]) == pytest.approx([3 / 1.482602218505602])


def test_mostly_equal_reference_uses_the_mean_deviation() -> None:
    median, deviation = median_and_deviation([0.0] * 9 + [10.0])
    assert median == 0.0
    assert deviation == pytest.approx(1.2533141373155)


def test_reference_without_spread_makes_any_difference_infinite() -> None:
    assert robust_z([1.0, 2.0, 0.0], [1.0, 1.0]).tolist() == [0.0, np.inf, -np.inf]


@pytest.mark.parametrize("bad", [[], [np.nan], [np.inf, 1.0]])
def test_values_without_a_median_are_refused(bad: list[float]) -> None:
    with pytest.raises(StatisticsError):
        robust_z(bad)
