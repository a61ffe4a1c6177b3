"""Intervals for one proportion: Wilson to show, Clopper-Pearson to gate."""

from __future__ import annotations

import math
from dataclasses import dataclass

from auditor.stats._common import Side, check_count, check_fraction, require
from auditor.stats._special import beta_quantile, normal_quantile


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval that says how it was made.

    Attributes:
        low: Lower end, in the unit of ``estimate``.
        high: Upper end.
        level: Nominal coverage in (0, 1).
        method: Name of the construction; a one-sided interval carries ``-lower`` or ``-upper``.
        estimate: Point estimate; NaN where there is none (n = 0). BCa and corrected intervals need not hold
            it.
        n: Independent units it rests on.
    """

    low: float
    high: float
    level: float
    method: str
    estimate: float
    n: int

    def __post_init__(self) -> None:
        check_fraction(self.level, "level")
        require(self.low <= self.high, f"an interval needs low <= high, got [{self.low}, {self.high}].")

    def contains(self, value: float) -> bool:
        """Whether ``value`` lies inside, ends included."""
        return self.low <= value <= self.high

    @property
    def width(self) -> float:
        """``high - low``."""
        return self.high - self.low


def wilson(k: int, n: int, level: float = 0.95, side: Side = "two") -> Interval:
    """Wilson score interval for ``k`` successes in ``n`` trials.

    Coverage is close to ``level`` on average over rates, not guaranteed for each: use it to show a rate, and
    :func:`clopper_pearson` to decide on one. With n = 0 the interval is the vacuous [0, 1], estimate NaN.

    Source: E. B. Wilson, JASA 22 (1927).

    Raises:
        StatisticsError: Impossible counts, level outside (0, 1), unknown side.
    """
    _check(k, n, level, side)
    if n == 0:
        return _vacuous(level, _named("wilson", side))
    z = normal_quantile(0.5 + level / 2 if side == "two" else level)
    rate = k / n
    scale = 1 + z * z / n
    centre = (rate + z * z / (2 * n)) / scale
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / scale
    # The ends are exactly 0 and 1 at k = 0 and k = n; subtraction leaves 1e-17 there.
    low = 0.0 if k == 0 or side == "upper" else max(0.0, centre - half)
    high = 1.0 if k == n or side == "lower" else min(1.0, centre + half)
    return Interval(low, high, level, _named("wilson", side), rate, int(n))


def clopper_pearson(k: int, n: int, level: float = 0.95, side: Side = "two") -> Interval:
    """Exact interval for ``k`` successes in ``n`` trials: coverage at least ``level`` for every true rate.

    ``side="upper"`` gives [0, U] and ``side="lower"`` gives [L, 1], each at the full ``level`` (0 of 100 is
    3.0 % one-sided, 3.6 % two-sided, at 95 %). With n = 0 the interval is the vacuous [0, 1], estimate NaN.

    Source: C. J. Clopper and E. S. Pearson, Biometrika 26 (1934).

    Raises:
        StatisticsError: Impossible counts, level outside (0, 1), unknown side.
    """
    _check(k, n, level, side)
    if n == 0:
        return _vacuous(level, _named("clopper-pearson", side))
    tail = (1 - level) / 2 if side == "two" else 1 - level
    low = 0.0 if k == 0 or side == "upper" else beta_quantile(tail, k, n - k + 1)
    high = 1.0 if k == n or side == "lower" else beta_quantile(1 - tail, k + 1, n - k)
    return Interval(low, high, level, _named("clopper-pearson", side), k / n, int(n))


def _check(k: int, n: int, level: float, side: str) -> None:
    check_count(k, n)
    check_fraction(level, "level")
    require(side in ("two", "lower", "upper"), f"side must be 'two', 'lower' or 'upper', got {side!r}.")


def _named(method: str, side: Side) -> str:
    return method if side == "two" else f"{method}-{side}"


def _vacuous(level: float, method: str) -> Interval:
    return Interval(0.0, 1.0, level, method, math.nan, 0)
