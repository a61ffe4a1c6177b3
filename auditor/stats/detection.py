"""How well a score separates clean from compromised: AUROC, and TPR at a given FPR, with intervals.

Larger scores are more suspicious; a score is flagged if it is strictly above the threshold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from auditor.stats._common import FloatArray, as_sample, batch_length, check_fraction, needed_rng, require
from auditor.stats._special import binomial_lower_tail, binomial_upper_tail, two_sided_z
from auditor.stats.intervals import Interval, clopper_pearson


def auroc(negatives: ArrayLike, positives: ArrayLike) -> float:
    """Probability that a positive scores above a negative, ties counting half."""
    return float(_placements(*_scores(negatives, positives))[0].mean())


def auroc_interval(
    negatives: ArrayLike,
    positives: ArrayLike,
    level: float = 0.95,
    method: Literal["delong", "newcombe", "bootstrap"] = "delong",
    *,
    rng: np.random.Generator | None = None,
    resamples: int = 2000,
) -> Interval:
    """AUROC with a two-sided interval.

    ``delong``: DeLong's variance on the logit scale. ``newcombe``: score-type interval with the
    exponential-model variance (R. Newcombe, Statistics in Medicine 25 (2006), method 5), which stays honest
    at AUROC = 1. ``bootstrap``: percentile, both classes resampled. Where the variance estimate is zero
    (complete separation) ``newcombe`` is used whatever was asked, and named in ``method``.

    Source: E. DeLong, D. DeLong and D. Clarke-Pearson, Biometrics 44 (1988).

    Args:
        negatives: Shape (n,), n >= 2, scores of clean subjects.
        positives: Shape (m,), m >= 2, scores of compromised subjects.
        level: Nominal coverage.
        method: See above.
        rng: Needed for ``bootstrap`` only.
        resamples: Bootstrap resamples.

    Returns:
        Interval with ``n`` = n + m.
    """
    check_fraction(level, "level")
    require(
        method in ("delong", "newcombe", "bootstrap"),
        f"method must be delong, newcombe or bootstrap, got {method!r}.",
    )
    clean, compromised = _scores(negatives, positives, 2)
    of_positives, of_negatives = _placements(clean, compromised)
    estimate, size = float(of_positives.mean()), clean.size + compromised.size
    variance = of_positives.var(ddof=1) / compromised.size + of_negatives.var(ddof=1) / clean.size
    if method == "newcombe" or variance == 0:
        low, high = _newcombe(estimate, clean.size, compromised.size, level)
        used = "newcombe"
    elif method == "delong":
        logit = math.log(estimate / (1 - estimate))
        half = two_sided_z(level) * math.sqrt(variance) / (estimate * (1 - estimate))
        low, high = (1 / (1 + math.exp(-end)) for end in (logit - half, logit + half))
        used = "delong-logit"
    else:
        generator = needed_rng(rng, "the bootstrap interval")
        draws = _bootstrap_auroc(clean, compromised, generator, resamples)
        low, high = (float(q) for q in np.quantile(draws, [(1 - level) / 2, (1 + level) / 2]))
        used = "bootstrap-percentile"
    return Interval(low, high, level, used, estimate, size)


def auroc_difference(
    first: tuple[ArrayLike, ArrayLike], second: tuple[ArrayLike, ArrayLike], level: float = 0.95
) -> Interval:
    """AUROC of a first detector minus that of a second on the same subjects (DeLong's paired variance).

    Args:
        first: (negatives, positives) scores of the first detector, each of at least 2.
        second: Scores of the second detector for the same subjects in the same order.
        level: Nominal coverage.

    Raises:
        StatisticsError: Different subjects, or detectors that order all subjects alike (no variance to judge
            by).
    """
    check_fraction(level, "level")
    a, b = _scores(*first, 2), _scores(*second, 2)
    require(
        a[0].size == b[0].size and a[1].size == b[1].size,
        "paired detectors must score the same subjects in the same order.",
    )
    (pos_a, neg_a), (pos_b, neg_b) = _placements(*a), _placements(*b)
    variance = (pos_a - pos_b).var(ddof=1) / pos_a.size + (neg_a - neg_b).var(ddof=1) / neg_a.size
    require(variance > 0, "both detectors order the subjects alike; there is no difference to measure.")
    difference = float(pos_a.mean() - pos_b.mean())
    half = two_sided_z(level) * math.sqrt(variance)
    low, high = max(-1.0, difference - half), min(1.0, difference + half)
    return Interval(low, high, level, "delong-paired", difference, pos_a.size + neg_a.size)


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A threshold and the rates of ``score > threshold``.

    Attributes:
        threshold: In the unit of the score.
        tpr: Rate among positives.
        fpr: Rate among negatives.
    """

    threshold: float
    tpr: Interval
    fpr: Interval


def rates_at(
    negatives: ArrayLike, positives: ArrayLike, threshold: float, level: float = 0.95
) -> OperatingPoint:
    """Clopper-Pearson rates at a threshold that was frozen before these scores were seen."""
    require(not math.isnan(threshold), "the threshold is NaN; find out why before using it.")
    clean, compromised = _scores(negatives, positives)
    tpr, fpr = (
        clopper_pearson(int((scores > threshold).sum()), scores.size, level)
        for scores in (compromised, clean)
    )
    return OperatingPoint(threshold, tpr, fpr)


def tpr_at_fpr(negatives: ArrayLike, positives: ArrayLike, fpr: float, level: float = 0.95) -> OperatingPoint:
    """TPR at the threshold where the false-positive rate is ``fpr``, with the threshold's own uncertainty.

    The interval is for the TPR at the *population* threshold. Half of the error is spent on a
    distribution-free interval of that threshold from order statistics of the negatives, half on
    Clopper-Pearson at its two ends, so that coverage is at least ``level`` for any score distribution. With
    too few negatives to bound the threshold from above (437 are needed for FPR 1 % at 95 %) the lower
    end is 0: nothing was shown at that FPR.

    Args:
        negatives: Shape (n,); infinity allowed.
        positives: Shape (m,), independent of the negatives.
        fpr: In (0, 1).
        level: Coverage of the TPR interval.

    Returns:
        The empirical threshold, the TPR there with the interval above (``method`` "order-statistic-box"), and
        the realised FPR on these same negatives, whose interval is therefore optimistic.
    """
    check_fraction(fpr, "fpr")
    check_fraction(level, "level")
    clean, compromised = _scores(negatives, positives)
    ordered = np.sort(clean)
    n = ordered.size
    # The 1e-9 keeps n (1 - fpr) = 99.00000000000001 from becoming rank 100.
    threshold = float(ordered[max(1, math.ceil(n * (1 - fpr) - 1e-9)) - 1])
    tail = (1 - level) / 4
    ranks = np.arange(1, n + 1)
    above = np.flatnonzero(binomial_lower_tail(ranks - 1, n, 1 - fpr) >= 1 - tail)
    below = np.flatnonzero(binomial_upper_tail(ranks, n, 1 - fpr) >= 1 - tail)

    def flagged(limit: float) -> int:
        return int((compromised > limit).sum())

    m = compromised.size
    low = clopper_pearson(flagged(float(ordered[above[0]])), m, 1 - tail, "lower").low if above.size else 0.0
    high = (
        clopper_pearson(flagged(float(ordered[below[-1]])), m, 1 - tail, "upper").high if below.size else 1.0
    )
    tpr = Interval(low, high, level, "order-statistic-box", flagged(threshold) / m, m)
    return OperatingPoint(threshold, tpr, clopper_pearson(int((clean > threshold).sum()), n, level))


def _scores(negatives: ArrayLike, positives: ArrayLike, minimum: int = 1) -> tuple[FloatArray, FloatArray]:
    return (
        as_sample(negatives, "negatives", minimum, finite=False),
        as_sample(positives, "positives", minimum, finite=False),
    )


def _placements(negatives: FloatArray, positives: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Share of negatives below each positive, and of positives above each negative, ties counting half."""

    def share_below(values: FloatArray, others: FloatArray) -> FloatArray:
        ordered = np.sort(others)
        ranks = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
        return np.asarray(ranks / (2 * ordered.size), dtype=np.float64)

    return share_below(positives, negatives), 1 - share_below(negatives, positives)


def _newcombe(estimate: float, n: int, m: int, level: float) -> tuple[float, float]:
    """Ends where |estimate - theta| = z sqrt(V(theta)), by bisection."""
    z, pooled = two_sided_z(level), (n + m) / 2 - 1

    def reach(theta: float) -> float:
        spread = 1 + pooled * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return z * math.sqrt(theta * (1 - theta) * spread / (n * m))

    def end(far: float) -> float:
        inside, outside = estimate, far
        for _ in range(60):
            middle = (inside + outside) / 2
            inside, outside = (
                (middle, outside) if abs(estimate - middle) <= reach(middle) else (inside, middle)
            )
        return outside

    return end(0.0), end(1.0)


def _bootstrap_auroc(
    negatives: FloatArray, positives: FloatArray, rng: np.random.Generator, resamples: int
) -> FloatArray:
    require(resamples >= 100, f"resamples must be at least 100 to give a quantile, got {resamples}.")
    wins = (positives[:, None] > negatives) + 0.5 * (positives[:, None] == negatives)
    m, n = wins.shape
    draws = []
    step = batch_length(m + n)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        of_positives = rng.multinomial(m, np.full(m, 1 / m), size=size)
        of_negatives = rng.multinomial(n, np.full(n, 1 / n), size=size)
        draws.append(((of_positives @ wins) * of_negatives).sum(axis=1) / (m * n))
    return np.concatenate(draws)
