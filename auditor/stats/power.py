"""What a test of a given size can see: power, minimum detectable effect, sample sizes to certify a rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from auditor.stats._common import (
    Alternative,
    StatisticsError,
    check_alternative,
    check_count,
    check_fraction,
    check_rate,
    require,
)
from auditor.stats._special import (
    beta_quantile,
    binomial_lower_tail,
    binomial_upper_tail,
    noncentral_t_cdf,
    student_quantile,
)

LARGEST_N = 10_000_000


@dataclass(frozen=True, slots=True)
class BinomialPower:
    """An exact one-sided binomial test and what it can see.

    Attributes:
        critical: Reject at this many successes or more (``greater``), or this many or fewer (``less``); n + 1
            or -1 if no outcome rejects.
        size: True rejection rate under the null, at most alpha.
        power: Rejection rate under the true rate.
    """

    critical: int
    size: float
    power: float


def binomial_power(
    n: int,
    null_rate: float,
    true_rate: float,
    alpha: float = 0.05,
    alternative: Literal["greater", "less"] = "greater",
) -> BinomialPower:
    """Exact power of the one-sided binomial test of ``rate = null_rate`` with ``n`` trials.

    Raises:
        StatisticsError: n < 1, rates outside [0, 1], alpha outside (0, 1), or a two-sided alternative.
    """
    check_rate(true_rate, "true_rate")
    require(
        alternative in ("greater", "less"),
        f"binomial power is one-sided: 'greater' or 'less', got {alternative!r}.",
    )
    if alternative == "less":
        mirrored = binomial_power(n, 1 - null_rate, 1 - true_rate, alpha)
        return BinomialPower(n - mirrored.critical, mirrored.size, mirrored.power)
    critical = _critical(n, null_rate, alpha)
    size, power = (float(binomial_upper_tail(critical, n, rate)) for rate in (null_rate, true_rate))
    return BinomialPower(critical, size, power)


def binomial_mde(n: int, null_rate: float, alpha: float = 0.05, power: float = 0.8) -> float | None:
    """Smallest true rate above ``null_rate`` that the exact test finds with probability ``power``.

    Returns:
        The rate (not the difference), or None if ``n`` is so small that no outcome rejects.
    """
    check_fraction(power, "power")
    critical = _critical(n, null_rate, alpha)
    # P(X >= k) as a function of the rate is the distribution function of Beta(k, n - k + 1).
    return None if critical > n else beta_quantile(power, critical, n - critical + 1)


def binomial_sample_size(
    null_rate: float, true_rate: float, alpha: float = 0.05, power: float = 0.8, largest: int = 100_000
) -> int:
    """Smallest n with which the exact test of ``null_rate`` reaches ``power`` at the higher ``true_rate``.

    Exact power is a sawtooth in n: a slightly larger n can fall below ``power`` again.

    Raises:
        StatisticsError: ``true_rate`` is not above ``null_rate``, or no n up to ``largest`` will do.
    """
    check_fraction(power, "power")
    require(null_rate < true_rate, f"true_rate {true_rate} must lie above null_rate {null_rate}.")
    for n in range(1, largest + 1):
        if binomial_power(n, null_rate, true_rate, alpha).power >= power:
            return n
    raise StatisticsError(f"no n up to {largest} reaches power {power}; look for a larger effect.")


def _critical(n: int, null_rate: float, alpha: float) -> int:
    """Smallest k with P(X >= k) <= alpha under the null; n + 1 if there is none."""
    check_count(0, n)
    require(n >= 1, "a binomial test needs at least one trial.")
    check_rate(null_rate, "null_rate")
    check_fraction(alpha, "alpha")
    low, high = 0, n + 1
    while low < high:
        middle = (low + high) // 2
        if float(binomial_upper_tail(middle, n, null_rate)) <= alpha:
            high = middle
        else:
            low = middle + 1
    return low


def paired_mean_power(
    n: int, effect: float, deviation: float, alpha: float = 0.05, alternative: Alternative = "two-sided"
) -> float:
    """Power of the paired t test.

    Args:
        n: Pairs, at least 2.
        effect: True mean difference, in the unit of the differences.
        deviation: Standard deviation of the differences, same unit, positive.
        alpha: Level of the test.
        alternative: ``greater`` means a positive effect.
    """
    check_alternative(alternative)
    check_fraction(alpha, "alpha")
    require(n >= 2, f"a paired t test needs at least two pairs, got {n}.")
    require(deviation > 0 and math.isfinite(deviation), f"deviation must be positive, got {deviation}.")
    require(math.isfinite(effect), f"effect must be finite, got {effect}.")
    shift = math.sqrt(n) * effect / deviation
    if alternative == "less":
        shift = -shift
    critical = student_quantile(1 - (alpha / 2 if alternative == "two-sided" else alpha), n - 1)
    upper = 1 - noncentral_t_cdf(critical, n - 1, shift)
    return upper + noncentral_t_cdf(-critical, n - 1, shift) if alternative == "two-sided" else upper


def paired_mean_mde(
    n: int,
    deviation: float,
    alpha: float = 0.05,
    power: float = 0.8,
    alternative: Alternative = "two-sided",
) -> float:
    """Smallest positive mean difference that the paired t test finds with probability ``power``.

    With ``alternative="less"`` the size of the smallest negative one. Found by bisection to a relative 1e-9.
    """
    check_fraction(power, "power")
    require(power > alpha, f"power {power} must exceed alpha {alpha}.")
    sign = -1.0 if alternative == "less" else 1.0
    low, high = 0.0, deviation / math.sqrt(n)
    while paired_mean_power(n, sign * high, deviation, alpha, alternative) < power:
        low, high = high, 2 * high
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        if paired_mean_power(n, sign * middle, deviation, alpha, alternative) < power:
            low = middle
        else:
            high = middle
    return high


def zero_event_upper(n: int, level: float = 0.95, side: Literal["upper", "two"] = "upper") -> float:
    """Exact upper bound on a rate after 0 events in ``n`` trials, the rule of three (about 3 / n) made exact.

    1 - (1 - level)^(1/n): 0 of 100 is 3.0 %, 0 of 300 is 1.0 % (two-sided 1.2 %). With n = 0 the bound is 1.
    """
    check_count(0, n)
    tail = _tail(level, side)
    return -math.expm1(math.log(tail) / n) if n else 1.0


def certify_sample_size(
    max_rate: float, allowed: int = 0, level: float = 0.95, side: Literal["upper", "two"] = "upper"
) -> int:
    """Smallest n with which ``allowed`` alarms still certify ``rate <= max_rate`` (Clopper-Pearson).

    Args:
        max_rate: The rate to claim (say FPR <= 0.01), in (0, 1).
        allowed: Alarms that may occur.
        level: Confidence of the claim.
        side: ``upper`` for a one-sided bound, ``two`` for the upper end of a two-sided interval.

    Raises:
        StatisticsError: Impossible arguments, or more than ten million trials needed.
    """
    check_fraction(max_rate, "max_rate")
    require(allowed >= 0, f"allowed alarms cannot be negative, got {allowed}.")
    tail = _tail(level, side)
    low, high = allowed, allowed + 1
    while not _certifies(allowed, high, max_rate, tail):
        low, high = high, 2 * high
        require(high <= LARGEST_N, "certifying this rate needs more than ten million trials.")
    while high - low > 1:
        middle = (low + high) // 2
        if _certifies(allowed, middle, max_rate, tail):
            high = middle
        else:
            low = middle
    return high


def certify_allowed(
    n: int, max_rate: float, level: float = 0.95, side: Literal["upper", "two"] = "upper"
) -> int | None:
    """Most alarms in ``n`` trials that still certify ``rate <= max_rate``; None if not even 0 do."""
    check_count(0, n)
    check_fraction(max_rate, "max_rate")
    tail = _tail(level, side)
    certified = binomial_lower_tail(np.arange(n + 1), n, max_rate) <= tail
    count = int(np.count_nonzero(certified))
    return count - 1 if count and n else None


def certify_probability(n: int, allowed: int, true_rate: float) -> float:
    """Chance that ``n`` trials at ``true_rate`` end with at most ``allowed`` alarms."""
    check_count(allowed, n)
    check_rate(true_rate, "true_rate")
    return float(binomial_lower_tail(allowed, n, true_rate))


def _certifies(alarms: int, n: int, max_rate: float, tail: float) -> bool:
    return float(binomial_lower_tail(alarms, n, max_rate)) <= tail


def _tail(level: float, side: str) -> float:
    check_fraction(level, "level")
    require(side in ("upper", "two"), f"side must be 'upper' or 'two', got {side!r}.")
    return 1 - level if side == "upper" else (1 - level) / 2
