"""An interval for a median that assumes nothing about the distribution."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from auditor.stats._common import as_sample, check_fraction
from auditor.stats._special import binomial_lower_tail
from auditor.stats.intervals import Interval


def median_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Two order statistics between which the median lies: the narrowest symmetric pair that covers ``level``.

    ``level`` of the result is what the pair covers, which is more than was asked for, or less with fewer than six
    values (at 95 %), where it is the smallest and the largest.

    Source: H. A. David and H. N. Nagaraja, Order Statistics (2003), section 7.1.

    Args:
        values: Shape (n,), n >= 2, finite and independent.
        level: Coverage asked for.

    Raises:
        StatisticsError: Fewer than two values, NaN, or level outside (0, 1).
    """
    check_fraction(level, "level")
    ordered = np.sort(as_sample(values, "values", minimum=2))
    n = len(ordered)
    cut = 0
    while 2 * (cut + 1) < n and 1 - 2 * float(binomial_lower_tail(cut + 1, n, 0.5)) >= level:
        cut += 1
    covered = 1 - 2 * float(binomial_lower_tail(cut, n, 0.5))
    middle = float(np.median(ordered))
    return Interval(float(ordered[cut]), float(ordered[n - 1 - cut]), covered, "order statistics", middle, n)
