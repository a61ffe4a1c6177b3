"""Distribution functions, typed, with scipy imported on the first call.

``scipy.stats`` costs most of a second to import; ``scipy.special`` holds what is needed at a tenth of that,
and the normal quantile comes from the standard library.
"""

from __future__ import annotations

import math
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from auditor.stats._common import FloatArray


@cache
def _special() -> Any:
    return import_module("scipy.special")


def normal_quantile(q: float) -> float:
    """Quantile of the standard normal, 0 < q < 1."""
    from statistics import NormalDist

    return NormalDist().inv_cdf(q)


def normal_cdf(z: float) -> float:
    """P(Z <= z) of the standard normal."""
    return 0.5 * math.erfc(-z / math.sqrt(2.0))


def two_sided_z(level: float) -> float:
    """The z with P(|Z| <= z) = level."""
    return normal_quantile(0.5 + level / 2.0)


def beta_quantile(q: float, a: float, b: float) -> float:
    """Quantile of Beta(a, b)."""
    return float(_special().betaincinv(a, b, q))


def binomial_upper_tail(k: ArrayLike, n: int, p: float) -> FloatArray:
    """P(X >= k) of Binomial(n, p), elementwise over integer ``k``; 1 for k <= 0 and 0 for k > n."""
    counts = np.asarray(k, dtype=np.float64)
    inner = np.clip(counts, 1, n) if n else np.ones_like(counts)
    tail = _special().betainc(inner, n - inner + 1, p) if n else np.zeros_like(counts)
    return np.asarray(np.where(counts <= 0, 1.0, np.where(counts > n, 0.0, tail)), dtype=np.float64)


def binomial_lower_tail(k: ArrayLike, n: int, p: float) -> FloatArray:
    """P(X <= k) of Binomial(n, p), elementwise, as the upper tail of the failures (no cancellation)."""
    counts = np.asarray(k, dtype=np.float64)
    return binomial_upper_tail(n - counts, n, 1.0 - p)


def student_quantile(q: float, df: float) -> float:
    """Quantile of Student's t with ``df`` degrees of freedom."""
    return float(_special().stdtrit(df, q))


def noncentral_t_cdf(t: float, df: float, noncentrality: float) -> float:
    """P(T <= t) of the noncentral t.

    Integrated over the scaled chi distribution of the estimated deviation by Simpson's rule: the library
    function is NaN far out in the tails, which is where the power of a well-planned audit lies.
    """
    reach = 14 / math.sqrt(2 * df)
    deviation = np.linspace(max(1e-12, 1 - reach), 1 + reach, 20_001)
    log_density = (df - 1) * np.log(deviation) - df * deviation**2 / 2
    log_density += math.log(2) + df / 2 * math.log(df / 2) - math.lgamma(df / 2)
    integrand = np.exp(log_density) * _special().ndtr(t * deviation - noncentrality)
    weights = np.ones_like(deviation)
    weights[1:-1:2], weights[2:-1:2] = 4.0, 2.0
    step = (deviation[-1] - deviation[0]) / (deviation.size - 1)
    return float(min(1.0, max(0.0, (weights * integrand).sum() * step / 3)))
