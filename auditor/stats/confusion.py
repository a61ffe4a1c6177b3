"""Rates corrected for the errors of the judge that counted them.

A classifier with confusion matrix C (true class by row, judged by column, rows sum to 1) sees a population
with rates pi as r = C^T pi. Inverting that removes the bias; the uncertainty of C, measured on a finite
calibration set, is carried through together with that of the counts.

Intervals meld confidence distributions: where a larger entry would raise a bound it is drawn from its
Clopper-Pearson distribution for that side, and the bound is a quantile of the corrected rate. For two classes
this is the method of D. Bayer, M. Fay and B. Graubard (Confidence intervals for prevalence estimates from
complex surveys with imperfect assays, Statistics in Medicine 42, 2023); for more, each class is treated so in
turn. A bootstrap of the counts would take a judge without an error in 50 tries as perfect, and one smoothed
draw for both ends subtracts errors that a count of zero has already ruled out: both end up too short near 0
and 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from auditor.stats._common import (
    BoolArray,
    FloatArray,
    batch_length,
    check_count,
    check_fraction,
    check_rate,
    require,
)
from auditor.stats.intervals import Interval

MINIMUM_SINGULAR_VALUE = 0.02
"""A judge nearer to guessing than this is refused: its corrected rates would be noise."""


def rogan_gladen(positives: int, n: int, sensitivity: float, specificity: float) -> float:
    """Prevalence behind ``positives`` of ``n`` judged positive, with the judge's error rates taken as known.

    (rate + specificity - 1) / (sensitivity + specificity - 1), clipped to [0, 1].
    Source: W. Rogan and B. Gladen, American Journal of Epidemiology 107 (1978).

    Raises:
        StatisticsError: n = 0, impossible counts or rates, or a judge no better than guessing.
    """
    check_count(positives, n)
    require(n > 0, "a rate needs at least one judged item.")
    check_rate(sensitivity, "sensitivity")
    check_rate(specificity, "specificity")
    youden = sensitivity + specificity - 1
    require(
        youden >= MINIMUM_SINGULAR_VALUE,
        "the judge is no better than guessing; its rate cannot be corrected.",
    )
    return min(1.0, max(0.0, (positives / n + specificity - 1) / youden))


def rogan_gladen_interval(
    positives: int,
    n: int,
    calibration: ArrayLike,
    *,
    rng: np.random.Generator,
    level: float = 0.95,
    draws: int = 4000,
) -> Interval:
    """Prevalence with an interval that carries the uncertainty of sensitivity and specificity.

    Args:
        positives: Items judged positive.
        n: Items judged, at least 1.
        calibration: Shape (2, 2) counts [[true negatives, false positives], [false negatives, true
            positives]].
        rng: Draws the confidence distributions.
        level: Nominal coverage.
        draws: Draws for each end.
    """
    check_count(positives, n)
    check_fraction(level, "level")
    observed, table = _inputs([n - positives, positives], calibration)
    estimate = float(_invert(table, observed)[1])
    low, high = _rate_ends(rng, observed, table, 1, level, draws)
    return Interval(min(low, estimate), max(high, estimate), level, "confusion-corrected", estimate, int(n))


@dataclass(frozen=True, slots=True)
class CorrectedRates:
    """Rates of K classes, or differences of such rates, after correction for the judge.

    Attributes:
        rates: Shape (K,); rates are non-negative and sum to 1, differences sum to 0.
        low: Shape (K,), lower ends.
        high: Shape (K,), upper ends.
        level: Nominal coverage of each class's interval by itself (not of all together).
        n: Judged items (differences: the smaller of the two counts).
    """

    rates: FloatArray
    low: FloatArray
    high: FloatArray
    level: float
    n: int

    def interval(self, index: int) -> Interval:
        """Interval of class ``index``."""
        return Interval(
            float(self.low[index]),
            float(self.high[index]),
            self.level,
            "confusion-corrected",
            float(self.rates[index]),
            self.n,
        )


def correct_rates(
    counts: ArrayLike,
    calibration: ArrayLike,
    *,
    rng: np.random.Generator,
    level: float = 0.95,
    draws: int = 4000,
) -> CorrectedRates:
    """True class rates behind the judged ``counts``: matrix inversion, projected onto the simplex.

    Args:
        counts: Shape (K,), items judged to be in each class; sum >= 1.
        calibration: Shape (K, K) counts, true class by row, judged class by column; every row sum >= 1.
            Measured on images that went through what the judged ones went through.
        rng: Draws the confidence distributions.
        level: Nominal coverage for each class by itself.
        draws: Draws for each class and end: 2 K draws inversions of K x K in all (seconds for K = 12).

    Raises:
        StatisticsError: Shapes or counts that cannot be, a class without calibration items, or a judge that
            cannot tell the classes apart.
    """
    check_fraction(level, "level")
    observed, table = _inputs(counts, calibration)
    estimate = _invert(table, observed)
    ends = [_rate_ends(rng, observed, table, i, level, draws) for i in range(estimate.size)]
    return _hull(estimate, ends, level, int(observed.sum()))


def corrected_difference(
    first: ArrayLike,
    second: ArrayLike,
    calibration: ArrayLike,
    *,
    rng: np.random.Generator,
    level: float = 0.95,
    draws: int = 4000,
) -> CorrectedRates:
    """Corrected rates of ``first`` minus those of ``second`` (tuned minus base), both judged by one judge.

    Both share each draw of the judge's matrix, so that its errors cancel as far as they really do. The two
    sets of counts are taken as independent, which is conservative under common random numbers. A weaker judge
    widens the difference whatever its sign, so that the outer of a weak and a strong draw is taken at each
    end.

    Args:
        first: Shape (K,) counts.
        second: Shape (K,) counts.
        calibration: Shape (K, K) counts, as for :func:`correct_rates`.
        rng: Draws the confidence distributions.
        level: Nominal coverage for each class by itself.
        draws: Draws for each class, end and judge.

    Returns:
        ``rates`` in [-1, 1].
    """
    check_fraction(level, "level")
    a, table = _inputs(first, calibration)
    b, _ = _inputs(second, calibration)
    estimate = _invert(table, a) - _invert(table, b)
    ends = [_difference_ends(rng, a, b, table, i, level, draws) for i in range(estimate.size)]
    return _hull(estimate, ends, level, int(min(a.sum(), b.sum())))


def project_to_simplex(points: ArrayLike) -> FloatArray:
    """Nearest points (Euclidean) with non-negative coordinates summing to 1; shape (..., K) kept.

    Source: the sorting algorithm of M. Held, P. Wolfe and H. Crowder, Mathematical Programming 6 (1974).
    """
    values = np.asarray(points, dtype=np.float64)
    descending = -np.sort(-values, axis=-1)
    excess = np.cumsum(descending, axis=-1) - 1
    ranks = np.arange(1, values.shape[-1] + 1)
    support = (descending * ranks > excess).sum(axis=-1, keepdims=True)
    shift = np.take_along_axis(excess, support - 1, axis=-1) / support
    return np.asarray(np.maximum(values - shift, 0.0), dtype=np.float64)


def _rate_ends(
    rng: np.random.Generator, observed: FloatArray, table: FloatArray, index: int, level: float, draws: int
) -> tuple[float, float]:
    """Lower and upper end for one class."""
    ends = []
    for upper in (False, True):
        parts = []
        for size in _batches(draws, table.size):
            weights, informative = _inverse_column(_judges(rng, table, index, upper, size), index)
            corrected = (weights * _rates(rng, observed, index, upper, size)).sum(axis=1)
            parts.append(np.where(informative, np.clip(corrected, 0.0, 1.0), float(upper)))
        ends.append(_end(parts, level, upper))
    return ends[0], ends[1]


def _difference_ends(
    rng: np.random.Generator,
    first: FloatArray,
    second: FloatArray,
    table: FloatArray,
    index: int,
    level: float,
    draws: int,
) -> tuple[float, float]:
    """Lower and upper end for one class's difference, each the outer of a weak and a strong judge."""
    lows, highs = [], []
    for weak in (False, True):
        low_parts: list[FloatArray] = []
        high_parts: list[FloatArray] = []
        for size in _batches(draws, table.size):
            weights, informative = _inverse_column(_judges(rng, table, index, weak, size), index)
            for upper, parts in ((False, low_parts), (True, high_parts)):
                raised = (weights * _rates(rng, first, index, upper, size)).sum(axis=1)
                lowered = (weights * _rates(rng, second, index, not upper, size)).sum(axis=1)
                difference = np.clip(raised, 0.0, 1.0) - np.clip(lowered, 0.0, 1.0)
                parts.append(np.where(informative, difference, 1.0 if upper else -1.0))
        lows.append(_end(low_parts, level, upper=False))
        highs.append(_end(high_parts, level, upper=True))
    return min(lows), max(highs)


def _end(parts: list[FloatArray], level: float, upper: bool) -> float:
    return float(np.quantile(np.concatenate(parts), (1 + level) / 2 if upper else (1 - level) / 2))


def _hull(estimate: FloatArray, ends: list[tuple[float, float]], level: float, n: int) -> CorrectedRates:
    """Intervals widened, where clipping or projection moved the estimate, to hold it."""
    low, high = np.array(ends).T
    return CorrectedRates(estimate, np.minimum(low, estimate), np.maximum(high, estimate), level, n)


def _inputs(counts: ArrayLike, calibration: ArrayLike) -> tuple[FloatArray, FloatArray]:
    observed, table = np.array(counts, dtype=np.float64), np.array(calibration, dtype=np.float64)
    classes = observed.size
    require(
        observed.ndim == 1 and classes >= 2 and table.shape == (classes, classes),
        f"K >= 2 counts need a K x K calibration, got shapes {observed.shape} and {table.shape}.",
    )
    for name, numbers in (("counts", observed), ("calibration", table)):
        whole = bool(
            np.isfinite(numbers).all() and (numbers >= 0).all() and (numbers == np.round(numbers)).all()
        )
        require(whole, f"{name} must be whole numbers of items, none negative.")
    require(observed.sum() >= 1, "a rate needs at least one judged item.")
    require(
        bool((table.sum(axis=1) >= 1).all()), "every class needs calibration items; measure the judge on all."
    )
    judge = _row_rates(table)
    others = judge - 2 * np.diag(judge.diagonal())
    apart = np.linalg.svd(judge, compute_uv=False)[-1] >= MINIMUM_SINGULAR_VALUE
    require(
        bool(apart and (judge.diagonal() > others.max(axis=0)).all()),
        "the judge cannot tell these classes apart; merge classes or use another judge.",
    )
    return observed, table


def _row_rates(counts: FloatArray) -> FloatArray:
    return np.asarray(counts / counts.sum(axis=-1, keepdims=True), dtype=np.float64)


def _invert(table: FloatArray, observed: FloatArray) -> FloatArray:
    return project_to_simplex(np.linalg.solve(_row_rates(table).T, _row_rates(observed)))


def _dirichlet(rng: np.random.Generator, counts: FloatArray, size: int) -> FloatArray:
    """Draws of shape (size, *counts.shape), each last axis Dirichlet(counts); a count of 0 stays 0."""
    return _row_rates(rng.standard_gamma(counts, size=(size, *counts.shape)))


def _rates(rng: np.random.Generator, observed: FloatArray, index: int, upper: bool, size: int) -> FloatArray:
    """Judged rates with class ``index`` from its upper or lower Clopper-Pearson distribution, (size, K)."""
    return _dirichlet(rng, observed + _extra_item(observed.size, index, upper), size)


def _judges(rng: np.random.Generator, table: FloatArray, index: int, weak: bool, size: int) -> FloatArray:
    """Judge matrices (size, K, K) that favour a high corrected rate of class ``index`` (weak) or a low one.

    High: the judge misses the class often and takes few others for it. Low: the reverse.
    """
    return _dirichlet(rng, table + _extra_item(len(table), index, upper=not weak), size)


def _extra_item(classes: int, index: int, upper: bool) -> FloatArray:
    """One pseudo-item, on class ``index`` for the upper distribution, over the others for the lower."""
    extra = np.full(classes, 0.0 if upper else 1.0 / (classes - 1))
    extra[index] = 1.0 if upper else 0.0
    return extra


def _inverse_column(judges: FloatArray, index: int) -> tuple[FloatArray, BoolArray]:
    """Weights w with (C^-T r)[index] = w . r, shape (size, K); whether each judge beats guessing."""
    informative = np.asarray(np.linalg.det(judges) > 1e-12)
    judges = np.where(informative[:, None, None], judges, np.eye(judges.shape[-1]))
    unit = np.zeros((judges.shape[-1], 1))
    unit[index] = 1.0
    return np.asarray(np.linalg.solve(judges, unit)[..., 0], dtype=np.float64), informative


def _batches(draws: int, values: int) -> Iterator[int]:
    require(draws >= 100, f"draws must be at least 100 to give a quantile, got {draws}.")
    step = batch_length(values)
    return (min(step, draws - start) for start in range(0, draws, step))
