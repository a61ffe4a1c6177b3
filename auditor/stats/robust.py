"""Robust standard scores by median and median absolute deviation."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from auditor.stats._common import FloatArray, as_sample

MAD_TO_DEVIATION = 1.482602218505602
"""1 / Phi^-1(3/4): scales the median absolute deviation to the standard deviation of a normal."""

MEAN_AD_TO_DEVIATION = 1.2533141373155001
"""sqrt(pi / 2): does the same for the mean absolute deviation."""


def median_and_deviation(values: ArrayLike) -> tuple[float, float]:
    """Median, and the normal-consistent deviation 1.4826 MAD.

    Where more than half of the values are equal the MAD is zero; the mean absolute deviation from the median
    stands in (B. Iglewicz and D. Hoaglin, How to Detect and Handle Outliers, 1993). Zero only if all are
    equal.

    Args:
        values: Shape (n,), n >= 1, finite.
    """
    sample = as_sample(values, "values")
    median = float(np.median(sample))
    distance = np.abs(sample - median)
    deviation = MAD_TO_DEVIATION * float(np.median(distance))
    return median, deviation if deviation > 0 else MEAN_AD_TO_DEVIATION * float(distance.mean())


def robust_z(values: ArrayLike, reference: ArrayLike | None = None) -> FloatArray:
    """Deviations from the median of ``reference`` in units of its robust deviation.

    Args:
        values: Shape (n,), finite.
        reference: Shape (m,), finite; the values themselves by default.

    Returns:
        Shape (n,). Against a reference without any spread: 0 where equal to it, otherwise signed infinity.
    """
    sample = as_sample(values, "values")
    centre, deviation = median_and_deviation(sample if reference is None else reference)
    shift = sample - centre
    if deviation > 0:
        return np.asarray(shift / deviation, dtype=np.float64)
    return np.where(shift == 0, 0.0, np.copysign(np.inf, shift))
