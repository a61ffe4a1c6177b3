"""Tests and intervals that may be looked at after every observation: betting on a bounded mean.

A gambler bets against "the mean is m" with a stake that depends only on the past. Under that hypothesis the
wealth is a non-negative martingale, so it ever reaches 1 / alpha with probability at most alpha (Ville),
whenever one stops and for whatever reason. Observations lie in [0, 1] and need only share a conditional mean.

Source: I. Waudby-Smith and A. Ramdas, Estimating means of bounded random variables by betting, JRSS B 86
(2024).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from auditor.stats._common import (
    Alternative,
    FloatArray,
    IntArray,
    as_sample,
    batch_length,
    check_alternative,
    check_fraction,
    check_rate,
    require,
)
from auditor.stats.intervals import Interval

TRUNCATION = 0.5
"""Largest part of the wealth at stake in one step (c in the source)."""


@dataclass(frozen=True, slots=True)
class EProcess:
    """Evidence against a null hypothesis after each observation.

    Attributes:
        log_e: Shape (T,), natural log of the wealth after observation 1 ... T (starting wealth 1).
    """

    log_e: FloatArray

    @property
    def p_value(self) -> FloatArray:
        """Anytime-valid p-values min(1, 1 / max e so far), shape (T,)."""
        return anytime_p(self.log_e)

    def first_rejection(self, alpha: float) -> int | None:
        """Number of observations after which p <= alpha first held, or None."""
        check_fraction(alpha, "alpha")
        crossed = np.flatnonzero(self.log_e >= math.log(1 / alpha))
        return int(crossed[0]) + 1 if crossed.size else None


def anytime_p(log_e: ArrayLike) -> FloatArray:
    """p-values 1 / max(1, largest e so far) from the log of an e-process of shape (T,)."""
    path = as_sample(log_e, "log_e", minimum=0, finite=False)
    return np.exp(-np.maximum.accumulate(np.maximum(path, 0.0)))


def betting_e_process(values: ArrayLike, mean: float, alternative: Alternative = "greater") -> EProcess:
    """E-process against a claim about the mean of values in [0, 1].

    Stakes are the approximately growth-optimal ones of the source (aGRAPA).

    Args:
        values: Shape (T,), in [0, 1], in the order observed. The process of a prefix is the prefix of the
            process.
        mean: The null mean, in [0, 1].
        alternative: ``greater`` tests "mean <= m", ``less`` tests "mean >= m", ``two-sided`` tests "mean = m"
            with half of the wealth on each side.

    Raises:
        StatisticsError: Values outside [0, 1], NaN, or an unknown alternative.
    """
    check_alternative(alternative)
    check_rate(mean, "mean")
    x = _unit_values(values)
    past_mean, past_variance = _past_moments(x)
    edge = past_mean - mean
    growth_optimal = edge / (past_variance + edge**2)
    up = np.cumsum(np.log1p(np.clip(growth_optimal, 0, _limit(mean)) * (x - mean)))
    if alternative == "greater":
        return EProcess(up)
    down = np.cumsum(np.log1p(np.clip(-growth_optimal, 0, _limit(1 - mean)) * (mean - x)))
    return EProcess(down if alternative == "less" else np.logaddexp(up, down) - math.log(2))


@dataclass(frozen=True, slots=True)
class ConfidenceSequence:
    """Intervals that hold simultaneously for all times with probability ``level``.

    Attributes:
        low: Shape (T,), never decreasing.
        high: Shape (T,), never increasing.
        level: Coverage over all times together.
        mean: Shape (T,), running sample mean.
    """

    low: FloatArray
    high: FloatArray
    level: float
    mean: FloatArray

    def at(self, t: int) -> Interval:
        """Interval after ``t`` observations, 1 <= t <= T.

        Raises:
            StatisticsError: ``t`` out of range, or the sequence is empty by then (low > high): the
            observations do not share one mean, or an event of probability 1 - level happened.
        """
        require(1 <= t <= self.low.size, f"t must lie in 1 ... {self.low.size}, got {t}.")
        low, high = float(self.low[t - 1]), float(self.high[t - 1])
        require(low <= high, f"the confidence sequence is empty after {t} values: their mean has shifted.")
        return Interval(low, high, self.level, "betting-hedged", float(self.mean[t - 1]), t)


def betting_confidence_sequence(
    values: ArrayLike, level: float = 0.95, grid_points: int = 1001
) -> ConfidenceSequence:
    """Hedged-capital confidence sequence for the mean of values in [0, 1], running intersection.

    Candidate means lie on an even grid. Wealth is monotone in the candidate, so that the interval is widened
    outwards to the nearest rejected grid points and the grid never costs coverage, only 1 / (grid_points -
    1).

    Args:
        values: Shape (T,), in [0, 1], in the order observed.
        level: Coverage over all times together.
        grid_points: Candidate means; work is T x grid_points.

    Raises:
        StatisticsError: Values outside [0, 1], NaN, or an impossible level or grid.
    """
    check_fraction(level, "level")
    require(grid_points >= 3, f"grid_points must be at least 3, got {grid_points}.")
    x = _unit_values(values)
    grid = np.linspace(0.0, 1.0, grid_points)
    bets = _plug_in_bets(x, 1 - level)
    barrier = math.log(2 / (1 - level))
    rejected_low = _count_rejected(x, bets, grid, barrier)
    # 1 - x betted upwards on candidate 1 - m is x betted downwards on m, and the grid is symmetric.
    rejected_high = _count_rejected(1 - x, bets, grid, barrier)
    low = np.where(rejected_low > 0, grid[np.maximum(rejected_low - 1, 0)], 0.0)
    high = np.where(rejected_high > 0, 1 - grid[np.maximum(rejected_high - 1, 0)], 1.0)
    return ConfidenceSequence(low, high, level, np.cumsum(x) / np.arange(1, x.size + 1))


def _count_rejected(x: FloatArray, bets: FloatArray, grid: FloatArray, barrier: float) -> IntArray:
    """How many candidates, from 0 upwards, have been rejected as too small by each time; shape (T,)."""
    counts = np.zeros(x.size, dtype=np.int64)
    step = batch_length(x.size)
    for start in range(0, grid.size, step):
        candidates = grid[start : start + step]
        with np.errstate(divide="ignore"):
            stakes = np.minimum(bets[:, None], TRUNCATION / candidates)
        wealth = np.cumsum(np.log1p(stakes * (x[:, None] - candidates)), axis=0)
        counts += (np.maximum.accumulate(wealth, axis=0) >= barrier).sum(axis=1)
    return counts


def _plug_in_bets(x: FloatArray, alpha: float) -> FloatArray:
    """Predictable plug-in stakes of the source, shape (T,); entry t uses values before t only."""
    _, past_variance = _past_moments(x)
    t = np.arange(1, x.size + 1)
    return np.asarray(np.sqrt(2 * math.log(2 / alpha) / (past_variance * t * np.log1p(t))), dtype=np.float64)


def _past_moments(x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Regularised mean and variance of the values before each time, starting at 1/2 and 1/4; shape (T,)."""
    t = np.arange(1, x.size + 1)
    means = (0.5 + np.cumsum(x)) / (t + 1)
    variances = (0.25 + np.cumsum((x - means) ** 2)) / (t + 1)
    return np.concatenate([[0.5], means[:-1]]), np.concatenate([[0.25], variances[:-1]])


def _limit(mean: float) -> float:
    return TRUNCATION / mean if mean > 0 else math.inf


def _unit_values(values: ArrayLike) -> FloatArray:
    x = as_sample(values, "values")
    require(
        bool(((x >= 0) & (x <= 1)).all()), "betting needs values in [0, 1]; rescale them by known bounds."
    )
    return x
