"""Bootstrap intervals over rows, over clusters of rows, and over pairs.

A statistic is vectorised: it takes a batch of resamples, shape (B, n, ...) where rows have shape (n, ...),
and returns one number per resample, shape (B,). ``lambda batch: batch.mean(axis=1)`` is the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from auditor.stats._common import FloatArray, IntArray, batch_length, check_fraction, check_no_nan, require
from auditor.stats._special import normal_cdf, normal_quantile
from auditor.stats.intervals import Interval

Statistic = Callable[[FloatArray], FloatArray]
PairedStatistic = Callable[[FloatArray, FloatArray], FloatArray]


def bootstrap(
    rows: ArrayLike,
    statistic: Statistic,
    *,
    rng: np.random.Generator,
    level: float = 0.95,
    method: Literal["bca", "percentile"] = "bca",
    resamples: int = 2000,
    clusters: ArrayLike | None = None,
) -> Interval:
    """Two-sided bootstrap interval of a statistic over rows.

    With ``clusters`` whole clusters are drawn, each with all its rows, so that images of one model, or
    prompts of one template, count as one unit. Fewer than about 20 units give intervals that are too short by
    any method. BCa leaves the percentile interval where it is undefined (every resample on one side of the
    estimate, or a pole of the acceleration); ``method`` of the result names what was used.

    Source: B. Efron, JASA 82 (1987); A. Davison and D. Hinkley, Bootstrap Methods (1997), ch. 2-3, 5.

    Args:
        rows: Shape (n, ...), finite.
        statistic: (B, n', ...) -> (B,), see the module docstring; n' varies with unequal clusters.
        rng: The only source of randomness.
        level: Nominal coverage.
        method: ``bca`` or ``percentile``. BCa adds a jackknife, whose cost grows with the square of the
            units.
        resamples: Bootstrap resamples.
        clusters: Shape (n,), the cluster label of each row; None makes each row its own unit.

    Returns:
        Interval with ``n`` = number of resampled units (rows or clusters).

    Raises:
        StatisticsError: Fewer than two units, NaN, a statistic of the wrong shape or not finite, or a
            statistic that is the same on every resample: a zero-width interval would claim certainty the data
            do not have.
    """
    data = np.array(rows, dtype=np.float64)
    require(data.ndim >= 1, "rows must have at least one dimension, got a single number.")
    check_no_nan(data, "rows", finite=True)
    check_fraction(level, "level")
    require(method in ("bca", "percentile"), f"method must be 'bca' or 'percentile', got {method!r}.")
    require(resamples >= 100, f"resamples must be at least 100 to give a quantile, got {resamples}.")
    units = _units(data.shape[0], clusters)
    require(len(units) >= 2, f"a bootstrap needs at least two rows or clusters, got {len(units)}.")

    estimate = float(_call(statistic, data[None])[0])
    draws = _evaluate(statistic, data, units, _resampled(rng, len(units), resamples, data.size))
    require(
        bool(np.ptp(draws) > 0),
        "every bootstrap resample gives the same value; use an exact interval for these rows.",
    )
    tails = ((1 - level) / 2, (1 + level) / 2)
    used = "percentile"
    if method == "bca":
        adjusted = _bca_tails(statistic, data, units, draws, estimate, tails)
        if adjusted is not None:
            tails, used = adjusted, "bca"
    low, high = np.quantile(draws, tails)
    name = f"bootstrap-{used}" if clusters is None else f"cluster-bootstrap-{used}"
    return Interval(float(low), float(high), level, name, estimate, len(units))


def paired_bootstrap(
    first: ArrayLike,
    second: ArrayLike,
    statistic: PairedStatistic | None = None,
    *,
    rng: np.random.Generator,
    level: float = 0.95,
    method: Literal["bca", "percentile"] = "bca",
    resamples: int = 2000,
    clusters: ArrayLike | None = None,
) -> Interval:
    """Bootstrap interval of a statistic of two aligned samples; row i of both is drawn together.

    Args:
        first: Shape (n, ...).
        second: Same shape as ``first``.
        statistic: (B, n', ...), (B, n', ...) -> (B,); default: mean of ``first`` minus mean of ``second``.
        rng: The only source of randomness.
        level: Nominal coverage.
        method: ``bca`` or ``percentile``, as for :func:`bootstrap`.
        resamples: Bootstrap resamples.
        clusters: Shape (n,), labels of the pairs that are drawn together; None makes each pair its own unit.

    Raises:
        StatisticsError: Shapes differ, or as for :func:`bootstrap`.
    """
    a, b = np.array(first, dtype=np.float64), np.array(second, dtype=np.float64)
    require(
        a.shape == b.shape and a.ndim >= 1,
        f"paired samples must have one shape, got {a.shape} and {b.shape}.",
    )
    of_pair = _difference_of_means if statistic is None else statistic
    return bootstrap(
        np.stack([a, b], axis=1),
        lambda batch: of_pair(batch[:, :, 0], batch[:, :, 1]),
        rng=rng,
        level=level,
        method=method,
        resamples=resamples,
        clusters=clusters,
    )


def _difference_of_means(first: FloatArray, second: FloatArray) -> FloatArray:
    count = first.shape[0]
    return np.asarray((first - second).reshape(count, -1).mean(axis=1), dtype=np.float64)


def _units(n: int, clusters: ArrayLike | None) -> list[IntArray]:
    """Row numbers of each unit that is drawn as a whole, in order of the sorted labels."""
    if clusters is None:
        return [np.array([row], dtype=np.int64) for row in range(n)]
    labels = np.asarray(clusters)
    require(labels.shape == (n,), f"clusters must label each of the {n} rows, got shape {labels.shape}.")
    _, inverse = np.unique(labels, return_inverse=True)
    order = np.argsort(inverse, kind="stable").astype(np.int64)
    return np.split(order, np.cumsum(np.bincount(inverse))[:-1])


def _resampled(rng: np.random.Generator, units: int, resamples: int, values: int) -> Iterator[IntArray]:
    step = batch_length(values)
    for start in range(0, resamples, step):
        yield rng.integers(0, units, size=(min(step, resamples - start), units))


def _left_out(units: int, values: int) -> Iterator[IntArray]:
    kept = np.arange(units - 1, dtype=np.int64)
    step = batch_length(values)
    for start in range(0, units, step):
        left_out = np.arange(start, min(start + step, units))[:, None]
        yield kept + (kept >= left_out)


def _evaluate(
    statistic: Statistic, rows: FloatArray, units: list[IntArray], picks: Iterator[IntArray]
) -> FloatArray:
    """The statistic of each line of ``picks``, which are batches (b, drawn units) of unit numbers."""
    values: list[FloatArray] = []
    equal_sizes = len({unit.size for unit in units}) == 1
    table = np.stack(units) if equal_sizes else None
    for batch in picks:
        if table is not None:
            values.append(_call(statistic, rows[table[batch].reshape(len(batch), -1)]))
        else:
            values.extend(
                _call(statistic, rows[np.concatenate([units[u] for u in line])][None]) for line in batch
            )
    return np.concatenate(values)


def _call(statistic: Statistic, batch: FloatArray) -> FloatArray:
    values = np.asarray(statistic(batch), dtype=np.float64)
    require(
        values.shape == batch.shape[:1],
        f"a statistic must map a batch {batch.shape} to shape {batch.shape[:1]}, got {values.shape}.",
    )
    require(
        bool(np.isfinite(values).all()),
        "the statistic is NaN or infinite on a resample; use one that is defined on every resample.",
    )
    return values


def _bca_tails(
    statistic: Statistic,
    rows: FloatArray,
    units: list[IntArray],
    draws: FloatArray,
    estimate: float,
    tails: tuple[float, float],
) -> tuple[float, float] | None:
    """Percentiles corrected for bias and acceleration, or None where the correction is undefined."""
    below = float(np.mean(draws < estimate) + 0.5 * np.mean(draws == estimate))
    if not 0 < below < 1:
        return None
    bias = normal_quantile(below)
    jackknife = _evaluate(statistic, rows, units, _left_out(len(units), rows.size))
    influence = jackknife.mean() - jackknife
    spread = float((influence**2).sum())
    acceleration = float((influence**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0

    adjusted = []
    for tail in tails:
        shifted = bias + normal_quantile(tail)
        scale = 1 - acceleration * shifted
        if scale <= 0:
            return None
        adjusted.append(normal_cdf(bias + shifted / scale))
    return adjusted[0], adjusted[1]
