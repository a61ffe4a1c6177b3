"""Tails of sums of random signs: the null distribution of every sign code, given the picture.

Let ``w`` be what was found in a picture and ``s`` the signs that a key puts there. If the key was drawn without regard
to the picture, ``T = sum s_i w_i`` is a weighted sum of fair signs, and its tail says how surprising the picture is:

- :func:`monte_carlo` ranks T among keys drawn at random: exact for any statistic, no smaller than 1 / (draws + 1);
- :func:`saddle_point` approximates the tail to a few percent (R. Lugannani and S. Rice, Advances in Applied Probability
  12, 1980), too small as often as too large;
- :func:`certified` bounds it, down to any size: by Chernoff's method, which is never worse than Hoeffding's bound (W.
  Hoeffding, JASA 58, 1963), and by 3.18 normal tails (V. Bentkus and D. Dzindzalieta, Bernoulli 21, 2015), whichever
  is smaller.

Small p-values come from the bound and large ones from the ranks; :func:`settle` joins both without loss of validity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from watermark.detection import Method

__all__ = [
    "SPENT",
    "certified",
    "hoeffding",
    "monte_carlo",
    "random_signs",
    "rank_p",
    "saddle_point",
    "settle",
]

FloatArray = NDArray[np.float64]

SPENT = 1e-4
"""Where a bound is at most this, it is the p-value; ranks pay this much for it (see :func:`settle`)."""
TIE = 1e-9
"""Relative slack within which two statistics count as tied: the order of a sum must not decide."""
_GAUSSIAN = 1 / (4 * 0.5 * math.erfc(1.0))  # 1 / (4 P(Z >= sqrt 2))
_SMALLEST = 5e-324
_SIGNS_AT_ONCE = 1 << 22
_NEWTON_STEPS = 60


def hoeffding(t: float, weights: FloatArray) -> float:
    """``exp(-t^2 / (2 sum w^2))``, a bound on P(T >= t); 1 where t is not positive."""
    squares = float(np.square(weights).sum())
    if t <= 0 or squares == 0:
        return 1.0
    return _probability(-t * t / (2 * squares))


def certified(t: float, weights: FloatArray) -> float:
    """A proven bound on P(T >= t), at most :func:`hoeffding`.

    Args:
        t: the statistic.
        weights: (n,), finite.
    """
    w = _positive(weights)
    if t <= 0 or not len(w):
        return 1.0
    if t >= float(w.sum()) * (1 - TIE):
        # Every sign agrees, which one in two to the n keys does; beyond the sum none does.
        return _probability(-len(w) * math.log(2))
    _, exponent = _saddle(t, w)
    deviations = t / math.sqrt(float(np.square(w).sum()))
    gaussian = _GAUSSIAN * 0.5 * math.erfc(deviations / math.sqrt(2))
    return min(1.0, _probability(exponent), gaussian if gaussian > 0 else 1.0, hoeffding(t, w))


def saddle_point(t: float, weights: FloatArray) -> float:
    """P(T >= t) approximately, for weights without a lattice: relative error of a few percent from n = 30 on."""
    w = _positive(weights)
    total = float(w.sum())
    if not len(w) or t <= -total:
        return 1.0
    if t >= total * (1 - TIE):
        return _probability(-len(w) * math.log(2))
    if t < 0:
        return 1.0 - saddle_point(-t, w)
    deviation = math.sqrt(float(np.square(w).sum()))
    if t < 1e-3 * deviation:
        # The formula is 0/0 in the middle; the normal tail is exact there to higher order.
        return 0.5 * math.erfc(t / deviation / math.sqrt(2))
    at, exponent = _saddle(t, w)
    root = math.sqrt(-2 * exponent)
    curvature = float((np.square(w) * (1 - np.square(np.tanh(at * w)))).sum())
    lean = at * math.sqrt(curvature)
    # exp(exponent) is the normal density at the root, but for its constant.
    correction = math.exp(exponent) / math.sqrt(2 * math.pi) * (1 / lean - 1 / root)
    return min(1.0, max(0.5 * math.erfc(root / math.sqrt(2)) + correction, _SMALLEST))


def monte_carlo(t: float, weights: FloatArray, draws: int, rng: np.random.Generator) -> float:
    """``(1 + #{T_b >= t}) / (draws + 1)`` over ``draws`` random keys."""
    w = np.asarray(weights, dtype=np.float64)
    sums = np.concatenate([signs @ w.astype(np.float32) for signs in random_signs(draws, len(w), rng)])
    return rank_p(t, sums.astype(np.float64), float(np.abs(w).sum()))


def rank_p(value: float, drawn: FloatArray, scale: float = 0.0) -> float:
    """The p-value of ``value`` by its rank among ``drawn``, ties counted against it.

    Args:
        value: the statistic.
        drawn: (B,), the same statistic under keys drawn at random.
        scale: values nearer to each other than a tiny part of this are tied; of the larger of both if 0.
    """
    # Single precision is enough for the draws, as long as what it cannot tell apart counts as a tie.
    slack = (scale or max(abs(value), 1.0)) * 1e-6
    return (1 + int((drawn >= value - slack).sum())) / (len(drawn) + 1)


def random_signs(draws: int, n: int, rng: np.random.Generator) -> Iterator[NDArray[np.float32]]:
    """Rows of fair signs, float32 (b, n), as many rows at a time as memory likes, ``draws`` rows in all."""
    step = max(1, _SIGNS_AT_ONCE // max(1, n))
    for start in range(0, draws, step):
        rows = min(step, draws - start)
        packed = rng.integers(0, 256, size=(rows, (n + 7) // 8), dtype=np.uint8)
        yield np.unpackbits(packed, axis=1, count=n).astype(np.float32) * 2 - 1


def settle(bound: float, ranked: Callable[[], float]) -> tuple[float, Method]:
    """One p-value from a bound and, where that is not small, from ranks.

    Where the bound is at most :data:`SPENT` it is the p-value, otherwise the rank plus :data:`SPENT`. For a <= SPENT,
    P(p <= a) is that of the bound; above, at most P(bound <= SPENT) + P(rank <= a - SPENT) <= a.

    Args:
        bound: a p-value by a proven bound, any size.
        ranked: an exact p-value by :func:`rank_p`; asked only where it is needed.
    """
    if bound <= SPENT:
        return max(bound, _SMALLEST), Method.CERTIFIED
    return min(1.0, ranked() + SPENT), Method.MONTE_CARLO


def _saddle(t: float, w: FloatArray) -> tuple[float, float]:
    """The point where the tilted sum has its mean at ``t``, 0 < t < sum w, and K(point) - point t, at most 0."""
    low, high = 0.0, math.inf
    point = t / float(np.square(w).sum())
    for _ in range(_NEWTON_STEPS):
        tilted = np.tanh(point * w)
        short = t - float((w * tilted).sum())
        low, high = (point, high) if short > 0 else (low, point)
        if abs(short) <= 1e-12 * t:
            break
        slope = float((np.square(w) * (1 - np.square(tilted))).sum())
        point = point + short / slope if slope > 0 else math.inf
        if not low < point < high:
            point = (low + high) / 2 if math.isfinite(high) else 2 * low
    # log cosh, without overflow. Any point gives a valid bound; the best one the smallest.
    x = point * w
    grown = float((x + np.log1p(np.exp(-2 * x)) - math.log(2)).sum())
    return point, min(0.0, grown - point * t)


def _positive(weights: FloatArray) -> FloatArray:
    w = np.abs(np.asarray(weights, dtype=np.float64)).ravel()
    return w[w > 0]


def _probability(log_p: float) -> float:
    return max(math.exp(min(0.0, log_p)), _SMALLEST)
