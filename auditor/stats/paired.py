"""Tests and an interval for paired measurements (tuned and base on the same seed)."""

from __future__ import annotations

import math
from importlib import import_module

import numpy as np
from numpy.typing import ArrayLike

from auditor.stats._common import (
    ROUNDING,
    Alternative,
    FloatArray,
    SignificanceResult,
    as_extreme,
    as_sample,
    batch_length,
    check_alternative,
    check_count,
    check_fraction,
    needed_rng,
    require,
)
from auditor.stats._special import binomial_lower_tail, binomial_upper_tail, student_quantile
from auditor.stats.intervals import Interval

EXACT_SIGN_FLIPS = 20
"""Up to this many non-zero differences all 2^n sign patterns are visited."""


def mcnemar_exact(
    only_first: int, only_second: int, alternative: Alternative = "two-sided"
) -> SignificanceResult:
    """Exact McNemar test from the two discordant counts of paired yes/no outcomes.

    Null: a pair that disagrees is as likely to favour the first as the second.

    Source: Q. McNemar, Psychometrika 12 (1947), with the binomial tail instead of its normal approximation.

    Args:
        only_first: Pairs in which only the first measurement is positive.
        only_second: Pairs in which only the second is positive.
        alternative: ``greater`` means the first is positive more often.

    Returns:
        ``statistic`` = only_first - only_second (pairs), ``n`` = discordant pairs. p = 1 without any.
    """
    check_alternative(alternative)
    n = only_first + only_second
    check_count(only_first, n)
    check_count(only_second, n)
    upper = float(binomial_upper_tail(only_first, n, 0.5))
    lower = float(binomial_lower_tail(only_first, n, 0.5))
    p = {"greater": upper, "less": lower, "two-sided": min(1.0, 2 * min(upper, lower))}[alternative]
    return SignificanceResult(float(only_first - only_second), p, int(n), "mcnemar-exact", alternative)


def mcnemar_outcomes(
    first: ArrayLike, second: ArrayLike, alternative: Alternative = "two-sided"
) -> SignificanceResult:
    """:func:`mcnemar_exact` from two aligned boolean vectors of shape (n,)."""
    a, b = np.asarray(first), np.asarray(second)
    require(a.dtype == np.bool_ and b.dtype == np.bool_, "McNemar outcomes must be boolean arrays.")
    require(
        a.shape == b.shape and a.ndim == 1,
        f"McNemar outcomes must be two aligned vectors, got shapes {a.shape} and {b.shape}.",
    )
    return mcnemar_exact(int((a & ~b).sum()), int((~a & b).sum()), alternative)


def sign_flip_test(
    differences: ArrayLike,
    *,
    rng: np.random.Generator | None = None,
    alternative: Alternative = "two-sided",
    resamples: int = 9999,
) -> SignificanceResult:
    """Sign-flip (one-sample permutation) test of paired differences.

    Null: each difference is symmetric about zero. Exact with at most 20 non-zero differences (zeros do not
    change the sum and are set aside), otherwise Monte-Carlo with p = (1 + b) / (1 + resamples), which is
    valid for any number of resamples (B. Phipson and G. Smyth, SAGMB 9, 2010).

    Args:
        differences: Shape (n,), finite.
        rng: Needed only for the Monte-Carlo form.
        alternative: ``greater`` means a positive mean.
        resamples: Random sign patterns of the Monte-Carlo form.

    Returns:
        ``statistic`` = mean difference over all n, ``n`` = all differences. p = 1 if all are zero and
        two-sided.

    Raises:
        StatisticsError: Empty or NaN input, or too many differences for the exact form without ``rng``.
    """
    check_alternative(alternative)
    sample = as_sample(differences, "differences")
    moving = sample[sample != 0]
    total = float(moving.sum())
    slack = ROUNDING * float(np.abs(moving).sum())
    if moving.size <= EXACT_SIGN_FLIPS:
        sums = _all_signed_sums(moving)
        p = as_extreme(sums, total, alternative, slack) / sums.size
        method = "sign-flip-exact"
    else:
        generator = needed_rng(rng, f"a sign-flip test of more than {EXACT_SIGN_FLIPS} differences")
        require(resamples >= 1, f"resamples must be positive, got {resamples}.")
        hits = 0
        step = batch_length(moving.size)
        for start in range(0, resamples, step):
            signs = random_signs(generator, min(step, resamples - start), moving.size)
            hits += as_extreme(signs @ moving, total, alternative, slack)
        p = (1 + hits) / (1 + resamples)
        method = "sign-flip-monte-carlo"
    return SignificanceResult(float(sample.mean()), p, int(sample.size), method, alternative)


def random_signs(rng: np.random.Generator, rows: int, columns: int) -> FloatArray:
    """Independent fair signs, +1.0 or -1.0, shape (rows, columns)."""
    return np.asarray(2.0 * rng.integers(0, 2, size=(rows, columns)) - 1.0, dtype=np.float64)


def _all_signed_sums(values: FloatArray) -> FloatArray:
    """Sums of ``values`` under every sign pattern, shape (2^n,)."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums - value, sums + value])
    return sums


def wilcoxon_signed_rank(
    differences: ArrayLike, alternative: Alternative = "two-sided"
) -> SignificanceResult:
    """Wilcoxon signed-rank test of paired differences (scipy; exact for small samples without ties).

    Null: the differences are symmetric about zero. Zeros are dropped (Wilcoxon's own treatment).

    Args:
        differences: Shape (n,), finite.
        alternative: ``greater`` means differences tend to be positive.

    Returns:
        ``statistic`` = sum of ranks of the positive differences, ``n`` = non-zero differences; p = 1 if none.
    """
    check_alternative(alternative)
    sample = as_sample(differences, "differences")
    moving = sample[sample != 0]
    if moving.size == 0:
        return SignificanceResult(0.0, 1.0, 0, "wilcoxon-signed-rank", alternative)
    stats = import_module("scipy.stats")
    # scipy's two-sided statistic is the smaller rank sum, which hides the direction.
    p = float(stats.wilcoxon(moving, alternative=alternative).pvalue)
    ranks = stats.rankdata(np.abs(moving))
    return SignificanceResult(
        float(ranks[moving > 0].sum()), p, int(moving.size), "wilcoxon-signed-rank", alternative
    )


def paired_mean_difference(first: ArrayLike, second: ArrayLike, level: float = 0.95) -> Interval:
    """Student interval of the mean of ``first - second``, two-sided.

    Args:
        first: Shape (n,), n >= 2.
        second: Shape (n,), aligned with ``first``.
        level: Nominal coverage (exact for normal differences).

    Raises:
        StatisticsError: Lengths differ, fewer than two pairs, NaN, or differences that are all equal: they
            carry no estimate of their spread, and a zero-width interval would claim certainty.
    """
    check_fraction(level, "level")
    a, b = as_sample(first, "first", 2), as_sample(second, "second", 2)
    require(a.size == b.size, f"paired samples must have one length, got {a.size} and {b.size}.")
    differences = a - b
    deviation = float(differences.std(ddof=1))
    require(deviation > 0, "all paired differences are equal; use an exact test for these pairs.")
    mean = float(differences.mean())
    half = student_quantile(0.5 + level / 2, a.size - 1) * deviation / math.sqrt(a.size)
    return Interval(mean - half, mean + half, level, "paired-t", mean, int(a.size))
