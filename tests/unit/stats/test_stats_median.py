"""Order statistics around a median, against the exact binomial distribution."""

import numpy as np
import pytest
from scipy.stats import binom

from auditor.stats import StatisticsError, median_interval


@pytest.mark.parametrize("n", [2, 3, 5, 6, 7, 8, 12, 25, 60])
@pytest.mark.parametrize("level", [0.5, 0.8, 0.95, 0.99])
def test_it_is_the_narrowest_symmetric_pair_that_covers_the_level(n, level):
    values = np.random.default_rng(n).permutation(n).astype(float)
    found = median_interval(values, level)
    covered = [1 - 2 * binom.cdf(cut, n, 0.5) for cut in range((n - 1) // 2 + 1) if 2 * cut < n - 1]
    enough = [cut for cut, share in enumerate(covered) if share >= level]
    cut = max(enough, default=0)
    assert (found.low, found.high) == (cut, n - 1 - cut)
    assert found.level == pytest.approx(covered[cut])
    assert found.estimate == (n - 1) / 2
    assert found.n == n


def test_what_it_covers_is_what_it_says():
    rng = np.random.default_rng(0)
    draws = rng.exponential(size=(4000, 9))
    found = [median_interval(row) for row in draws]
    share = np.mean([one.contains(np.log(2)) for one in found])
    assert share == pytest.approx(found[0].level, abs=3 * (0.05 * 0.95 / 4000) ** 0.5)


@pytest.mark.parametrize("values", [[], [1.0], [1.0, float("nan")], [[1.0, 2.0]]])
def test_what_has_no_interval_is_refused(values):
    with pytest.raises(StatisticsError):
        median_interval(values)
