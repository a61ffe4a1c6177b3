"""Two-sample permutation tests, and the max-T correction over a family of hypotheses.

The null hypothesis is exchangeability: group labels carry no information about the rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike

from auditor.stats._common import (
    ROUNDING,
    Alternative,
    BoolArray,
    FloatArray,
    SignificanceResult,
    as_extreme,
    as_matrix,
    as_sample,
    batch_length,
    check_alternative,
    check_no_nan,
    needed_rng,
    require,
    tie_slack,
)
from auditor.stats.paired import random_signs

TwoSampleStatistic = Callable[[FloatArray, FloatArray], FloatArray]


def mean_difference(first: FloatArray, second: FloatArray) -> FloatArray:
    """Mean of each row of ``first`` (B, n) minus that of ``second`` (B, m), shape (B,)."""
    return np.asarray(first.mean(axis=1) - second.mean(axis=1), dtype=np.float64)


def permutation_test(
    first: ArrayLike,
    second: ArrayLike,
    statistic: TwoSampleStatistic = mean_difference,
    *,
    rng: np.random.Generator | None = None,
    alternative: Alternative = "two-sided",
    resamples: int = 9999,
    exact_up_to: int = 20_000,
) -> SignificanceResult:
    """Two-sample permutation test.

    Exact over all C(n + m, n) relabellings if there are at most ``exact_up_to``, otherwise Monte-Carlo with
    p = (1 + b) / (1 + resamples) (B. Phipson and G. Smyth, SAGMB 9, 2010).

    Args:
        first: Shape (n,), finite.
        second: Shape (m,), finite.
        statistic: (B, n), (B, m) -> (B,). ``two-sided`` compares absolute values, so it must be centred at
            zero under the null.
        rng: Needed only for the Monte-Carlo form.
        alternative: ``greater`` means the statistic is larger than relabelling explains.
        resamples: Random relabellings of the Monte-Carlo form.
        exact_up_to: Largest number of relabellings that is enumerated.

    Returns:
        ``statistic`` observed, ``n`` = n + m.

    Raises:
        StatisticsError: Empty or NaN samples, a statistic of the wrong shape, or no ``rng`` where one is
            needed.
    """
    check_alternative(alternative)
    a, b = as_sample(first, "first"), as_sample(second, "second")
    pooled = np.concatenate([a, b])
    observed = float(_checked(statistic(a[None], b[None]), 1)[0])
    slack = (
        tie_slack(observed) if statistic is not mean_difference else ROUNDING * float(np.abs(pooled).max())
    )
    relabellings = math.comb(pooled.size, a.size)
    exact = relabellings <= exact_up_to
    if exact:
        memberships = _all_memberships(pooled.size, a.size)
    else:
        generator = needed_rng(rng, "a permutation test of this many relabellings")
        require(resamples >= 1, f"resamples must be positive, got {resamples}.")
        memberships = _random_memberships(generator, pooled.size, a.size, resamples, pooled.size)
    hits = 0
    for member in memberships:
        rows = np.broadcast_to(pooled, member.shape)
        values = statistic(rows[member].reshape(len(member), -1), rows[~member].reshape(len(member), -1))
        hits += as_extreme(_checked(values, len(member)), observed, alternative, slack)
    p = hits / relabellings if exact else (1 + hits) / (1 + resamples)
    method = "permutation-exact" if exact else "permutation-monte-carlo"
    return SignificanceResult(observed, p, int(pooled.size), method, alternative)


def max_t_adjusted(observed: ArrayLike, null: ArrayLike, step_down: bool = True) -> FloatArray:
    """Family-wise adjusted p-values from joint draws of all statistics under the null (Westfall-Young max-T).

    Uses the dependence between hypotheses, so it costs little where they are correlated.

    Source: P. Westfall and S. Young, Resampling-Based Multiple Testing (1993).

    Args:
        observed: Shape (F,), larger is more extreme; +inf allowed.
        null: Shape (B, F), each row one joint draw; the observed row is added by this function.
        step_down: Free step-down (uniformly more powerful) instead of single-step.

    Returns:
        Shape (F,), in (0, 1], never below 1 / (B + 1).
    """
    statistics = as_sample(observed, "observed", finite=False)
    draws = np.array(null, dtype=np.float64)
    require(
        draws.ndim == 2 and draws.shape[0] >= 1 and draws.shape[1] == statistics.size,
        f"null must have shape (B, {statistics.size}) with B >= 1, got {draws.shape}.",
    )
    check_no_nan(draws, "null", finite=False)
    order = np.argsort(-statistics, kind="stable")
    sorted_draws = draws[:, order]
    if step_down:
        maxima = np.maximum.accumulate(sorted_draws[:, ::-1], axis=1)[:, ::-1]
    else:
        maxima = np.broadcast_to(sorted_draws.max(axis=1, keepdims=True), sorted_draws.shape)
    ranked = statistics[order]
    slack = np.array([tie_slack(float(value)) for value in ranked])
    p = (1 + (maxima >= ranked - slack).sum(axis=0)) / (1 + len(draws))
    adjusted = np.empty_like(statistics)
    adjusted[order] = np.maximum.accumulate(p)
    return adjusted


def max_t_two_sample(
    first: ArrayLike,
    second: ArrayLike,
    *,
    rng: np.random.Generator,
    resamples: int = 4999,
    step_down: bool = True,
) -> FloatArray:
    """Two-sided max-T p-values of the columns of two independent samples, by absolute Welch t.

    Args:
        first: Shape (n, F), n >= 2.
        second: Shape (m, F), m >= 2.
        rng: Draws the relabellings.
        resamples: Relabellings.
        step_down: As for :func:`max_t_adjusted`.

    Returns:
        Adjusted p-values, shape (F,).
    """
    a, b = as_matrix(first, "first", 2), as_matrix(second, "second", 2)
    require(a.shape[1] == b.shape[1], f"samples must share their columns, got {a.shape[1]} and {b.shape[1]}.")
    pooled = np.concatenate([a, b])
    pooled -= pooled.mean(axis=0)
    size, n = len(pooled), len(a)
    own = np.zeros((1, size), dtype=np.bool_)
    own[0, :n] = True
    observed = _absolute_welch_t(own, pooled)[0]
    batches = _random_memberships(rng, size, n, resamples, size + 4 * pooled.shape[1])
    null = np.concatenate([_absolute_welch_t(member, pooled) for member in batches])
    return max_t_adjusted(observed, null, step_down)


def max_t_sign_flip(
    differences: ArrayLike, *, rng: np.random.Generator, resamples: int = 4999, step_down: bool = True
) -> FloatArray:
    """Two-sided max-T p-values of the columns of paired differences (n, F), by absolute one-sample t.

    A row is one pair and keeps one sign over all columns, which preserves their dependence.

    Returns:
        Adjusted p-values, shape (F,).
    """
    rows = as_matrix(differences, "differences", 2)
    observed = _absolute_t(np.ones((1, len(rows))), rows)[0]
    step = batch_length(rows.shape[0] + 4 * rows.shape[1])
    null = np.concatenate(
        [
            _absolute_t(random_signs(rng, min(step, resamples - start), len(rows)), rows)
            for start in range(0, resamples, step)
        ]
    )
    return max_t_adjusted(observed, null, step_down)


def _absolute_t(signs: FloatArray, rows: FloatArray) -> FloatArray:
    n = len(rows)
    means = signs @ rows / n
    mean_square = (rows**2).mean(axis=0)
    return _ratio(np.abs(means), (mean_square - means**2) / (n - 1), mean_square / n)


def _absolute_welch_t(member: BoolArray, pooled: FloatArray) -> FloatArray:
    """|Welch t| of each relabelling (rows of ``member``) and column of the centred ``pooled``."""
    weights = member.astype(np.float64)
    n = int(member[0].sum())
    m = len(pooled) - n
    total, squares = pooled.sum(axis=0), (pooled**2).sum(axis=0)
    sum_first, square_first = weights @ pooled, weights @ pooled**2
    mean_first, mean_second = sum_first / n, (total - sum_first) / m
    variance = (square_first / n - mean_first**2) / (n - 1)
    variance += ((squares - square_first) / m - mean_second**2) / (m - 1)
    return _ratio(np.abs(mean_first - mean_second), variance, squares / len(pooled))


def _ratio(difference: FloatArray, variance: FloatArray, scale: FloatArray) -> FloatArray:
    """Studentised difference; no difference is 0 and a difference without spread is infinite."""
    spread = np.sqrt(np.where(variance > ROUNDING * scale, variance, 0.0))
    real = difference > ROUNDING * np.sqrt(scale)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(real, difference / spread, 0.0)


def _all_memberships(size: int, n: int) -> Iterator[BoolArray]:
    chosen = np.array(list(combinations(range(size), n)), dtype=np.int64)
    step = batch_length(2 * size)
    for start in range(0, len(chosen), step):
        part = chosen[start : start + step]
        member = np.zeros((len(part), size), dtype=np.bool_)
        np.put_along_axis(member, part, True, axis=1)
        yield member


def _random_memberships(
    rng: np.random.Generator, size: int, n: int, resamples: int, values: int
) -> Iterator[BoolArray]:
    require(resamples >= 1, f"resamples must be positive, got {resamples}.")
    step = batch_length(values)
    for start in range(0, resamples, step):
        template = np.zeros((min(step, resamples - start), size), dtype=np.bool_)
        template[:, :n] = True
        yield rng.permuted(template, axis=1)


def _checked(values: FloatArray, count: int) -> FloatArray:
    result = np.asarray(values, dtype=np.float64)
    require(result.shape == (count,), f"a statistic must give shape ({count},) here, got {result.shape}.")
    check_no_nan(result, "the permuted statistic", finite=False)
    return result
