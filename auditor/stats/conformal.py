"""Conformal p-values against a bank of clean scores.

Larger scores are more suspicious. If the audited score and the bank are exchangeable, P(p <= alpha) <= alpha
holds for every bank size and every score distribution (V. Vovk et al., Algorithmic Learning in a Random
World, 2005). A p-value can never be below :func:`p_floor`; a bank that is too small for an audit's level is
an inconclusive audit, not a pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from auditor.stats._common import (
    BoolArray,
    FloatArray,
    IntArray,
    as_matrix,
    as_sample,
    check_fraction,
    check_no_nan,
    needed_rng,
    require,
)
from auditor.stats._special import beta_quantile
from auditor.stats.intervals import Interval

Ties = Literal["conservative", "randomised"]


def p_floor(m: int) -> float:
    """Smallest p-value that a bank of ``m`` scores can give: 1 / (m + 1)."""
    require(m >= 0, f"a bank cannot hold {m} scores.")
    return 1.0 / (m + 1)


def bank_size_for(alpha: float) -> int:
    """Smallest bank whose p-values can reach ``alpha``."""
    check_fraction(alpha, "alpha")
    m = max(0, math.ceil(1.0 / alpha) - 2)
    while p_floor(m) > alpha:
        m += 1
    return m


@overload
def conformal_p(
    score: float, bank: ArrayLike, *, ties: Ties = ..., rng: np.random.Generator | None = ...
) -> float: ...
@overload
def conformal_p(
    score: NDArray[np.floating] | Sequence[float],
    bank: ArrayLike,
    *,
    ties: Ties = ...,
    rng: np.random.Generator | None = ...,
) -> FloatArray: ...
def conformal_p(
    score: float | NDArray[np.floating] | Sequence[float],
    bank: ArrayLike,
    *,
    ties: Ties = "conservative",
    rng: np.random.Generator | None = None,
) -> float | FloatArray:
    """Conformal p-value (1 + #{bank >= score}) / (m + 1).

    ``ties="randomised"`` counts the score and its ties with one uniform weight each call, which makes p
    exactly uniform under the null but different from seed to seed; ``conservative`` counts them in full.

    Args:
        score: One score or an array of any shape; infinity allowed.
        bank: Shape (m,), m >= 1; infinity allowed.
        ties: ``conservative`` or ``randomised``.
        rng: Needed for ``randomised`` only.

    Returns:
        A float for a single score, otherwise an array of the shape of ``score``.

    Raises:
        StatisticsError: NaN anywhere (a score that could not be computed is not a clean score), or an empty
            bank.
    """
    require(ties in ("conservative", "randomised"), f"ties must be conservative or randomised, got {ties!r}.")
    ordered = np.sort(as_sample(bank, "bank", finite=False))
    scores = np.asarray(score, dtype=np.float64)
    check_no_nan(scores, "score", finite=False)
    at_least = ordered.size - np.searchsorted(ordered, scores, side="left")
    if ties == "conservative":
        p = (1 + at_least) / (ordered.size + 1)
    else:
        generator = needed_rng(rng, "the randomised treatment of ties")
        above = ordered.size - np.searchsorted(ordered, scores, side="right")
        weight = 1.0 - generator.random(scores.shape)
        p = (above + weight * (1 + at_least - above)) / (ordered.size + 1)
    return float(p) if scores.ndim == 0 else np.asarray(p, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class MondrianP:
    """Conformal p-values within strata.

    Attributes:
        p_value: Shape (n,).
        bank_size: Shape (n,), scores of the bank in the stratum of each row. Where it is 0 the p-value is 1
            and says nothing: such a row is outside the bank, hence inconclusive.
    """

    p_value: FloatArray
    bank_size: IntArray

    @property
    def floor(self) -> FloatArray:
        """Smallest p-value each row could have had, shape (n,)."""
        return np.asarray(1.0 / (self.bank_size + 1), dtype=np.float64)


def mondrian_p(
    scores: ArrayLike, strata: Sequence[object], bank: ArrayLike, bank_strata: Sequence[object]
) -> MondrianP:
    """Conformal p-values computed within the stratum (say, recipe class) of each score, ties conservative.

    Valid within every stratum, at the price of a higher floor.

    Args:
        scores: Shape (n,).
        strata: n hashable labels.
        bank: Shape (m,).
        bank_strata: m hashable labels.
    """
    values = as_sample(scores, "scores", finite=False)
    reference = as_sample(bank, "bank", minimum=0, finite=False)
    require(len(strata) == values.size, f"{values.size} scores need as many strata, got {len(strata)}.")
    require(
        len(bank_strata) == reference.size,
        f"{reference.size} bank scores need as many strata, got {len(bank_strata)}.",
    )
    p = np.ones(values.size)
    sizes = np.zeros(values.size, dtype=np.int64)
    for stratum in dict.fromkeys(strata):
        rows = np.array([label == stratum for label in strata], dtype=np.bool_)
        members = reference[np.array([label == stratum for label in bank_strata], dtype=np.bool_)]
        sizes[rows] = members.size
        if members.size:
            p[rows] = conformal_p(values[rows], members)
    return MondrianP(p, sizes)


def split_conformal_threshold(bank: ArrayLike, alpha: float) -> float:
    """Threshold t with ``score > t`` exactly when ``conformal_p(score, bank) <= alpha``.

    Raises:
        StatisticsError: The bank is too small for ``alpha``; an infinite threshold would pass everything.
    """
    ordered = np.sort(as_sample(bank, "bank", finite=False))
    allowed = _allowed_exceedances(ordered.size, alpha)
    return float(ordered[ordered.size - 1 - allowed])


def fpr_given_bank(m: int, alpha: float, level: float = 0.95) -> Interval:
    """Where the true false-positive rate lies for one bank of ``m`` continuous scores and level ``alpha``.

    The conformal promise is an average over banks; for a given bank the rate is Beta(l, m + 1 - l)
    distributed with l = floor(alpha (m + 1)) (V. Vovk, ACML 2012). Returns its central ``level`` range and
    mean.

    Raises:
        StatisticsError: The bank is too small for ``alpha``.
    """
    check_fraction(level, "level")
    hits = _allowed_exceedances(m, alpha) + 1
    tail = (1 - level) / 2
    low, high = (beta_quantile(q, hits, m + 1 - hits) for q in (tail, 1 - tail))
    return Interval(low, high, level, "beta-given-bank", hits / (m + 1), m)


def _allowed_exceedances(m: int, alpha: float) -> int:
    """Most bank scores at or above a score that is still rejected at ``alpha``."""
    check_fraction(alpha, "alpha")
    needed = bank_size_for(alpha)
    require(m >= needed, f"a bank of {m} cannot reach alpha = {alpha}; it needs at least {needed} scores.")
    allowed = math.floor(alpha * (m + 1))
    # Compare as callers do, so that threshold and p-value agree where alpha (m + 1) is whole up to rounding.
    while (1 + allowed) / (m + 1) > alpha:
        allowed -= 1
    return allowed


@dataclass(frozen=True, slots=True)
class Support:
    """Whether audited subjects look like the bank they are judged by.

    Attributes:
        inside: Shape (q,), False where the bank does not cover the subject.
        p_value: Shape (q,), conformal p-value of the isolation of each subject.
    """

    inside: BoolArray
    p_value: FloatArray


def in_support(
    covariates: ArrayLike, bank: ArrayLike, *, alpha: float = 0.01, neighbours: int = 3
) -> Support:
    """Test each subject's covariates (rank, steps, norm ...) against those of the bank.

    Isolation is the distance to the k-th nearest neighbour after standardising each column, computed the same
    way for the subject and for every bank member within bank + subject, so that a subject exchangeable with
    the bank is called outside with probability at most ``alpha``. Time and memory grow with the square of m.

    Args:
        covariates: Shape (q, d).
        bank: Shape (m, d), with m >= 1 / alpha - 1 and m > neighbours. Put skewed covariates on a log scale.
        alpha: Rate at which subjects like the bank's are called outside.
        neighbours: k.

    Raises:
        StatisticsError: Shapes that do not fit, NaN, or a bank too small for ``alpha``.
    """
    members = as_matrix(bank, "bank", neighbours + 1)
    subjects = as_matrix(covariates, "covariates")
    require(
        subjects.shape[1] == members.shape[1],
        f"covariates and bank must share their columns, got {subjects.shape[1]} and {members.shape[1]}.",
    )
    require(neighbours >= 1, f"neighbours must be positive, got {neighbours}.")
    _allowed_exceedances(len(members), alpha)
    p = np.array([_isolation_p(subject, members, neighbours) for subject in subjects])
    return Support(p > alpha, p)


def _isolation_p(subject: FloatArray, members: FloatArray, neighbours: int) -> float:
    bag = np.concatenate([members, subject[None]])
    bag = bag - bag.mean(axis=0)
    spread = bag.std(axis=0)
    bag = bag / np.where(spread > 0, spread, 1.0)
    squared = (bag**2).sum(axis=1)
    distances = squared[:, None] + squared - 2 * bag @ bag.T
    np.fill_diagonal(distances, np.inf)
    isolation = np.partition(distances, neighbours - 1, axis=1)[:, neighbours - 1]
    # Differences of squares carry rounding noise: duplicates must tie, not be ordered by it.
    isolation = np.round(isolation, 9)
    return conformal_p(float(isolation[-1]), isolation[:-1])
