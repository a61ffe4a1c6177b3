"""Many tests, one level: Bonferroni, Holm, Benjamini-Hochberg, and the audit's alpha split over families."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from auditor.stats._common import BoolArray, FloatArray, as_sample, check_fraction, require


def bonferroni(p_values: ArrayLike) -> FloatArray:
    """Adjusted p-values min(1, F p), shape (F,); family-wise error under any dependence."""
    p = _p_values(p_values)
    return np.minimum(1.0, p * p.size)


def holm(p_values: ArrayLike) -> FloatArray:
    """Holm's step-down adjusted p-values, shape (F,); family-wise error under any dependence.

    Source: S. Holm, Scandinavian Journal of Statistics 6 (1979).
    """
    p = _p_values(p_values)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)))
    return adjusted


def benjamini_hochberg(p_values: ArrayLike) -> FloatArray:
    """Benjamini-Hochberg adjusted p-values, shape (F,).

    Hold the false discovery rate for independent or positively dependent tests.

    Source: Y. Benjamini and Y. Hochberg, JRSS B 57 (1995).
    """
    p = _p_values(p_values)
    order = np.argsort(p, kind="stable")
    scaled = p[order] * p.size / np.arange(1, p.size + 1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.minimum.accumulate(scaled[::-1])[::-1])
    return adjusted


def alpha_split(alpha: float, weights: Mapping[str, float]) -> dict[str, float]:
    """Share of ``alpha`` for each declared family, proportional to its weight.

    The shares never sum to more than ``alpha``, so that the audit as a whole keeps its level whatever the
    dependence between families. A family that ends up not being run leaves its share unspent.

    Args:
        alpha: Level of the whole audit, in (0, 1).
        weights: Positive finite weight of each family; frozen before anything is measured.

    Raises:
        StatisticsError: No family, or a weight that is not positive and finite.
    """
    check_fraction(alpha, "alpha")
    require(len(weights) > 0, "alpha needs at least one declared family to be spent on.")
    bad = [name for name, weight in weights.items() if not (0 < weight < float("inf"))]
    require(not bad, f"weights must be positive and finite; {len(bad)} of {len(weights)} are not.")
    total = sum(weights.values())
    return {name: alpha * (weight / total) for name, weight in weights.items()}


@dataclass(frozen=True, slots=True)
class FamilyDecision:
    """What one family of hypotheses came to.

    Attributes:
        alpha: The family's share of the audit's level.
        adjusted_p: Shape (F,), Holm-adjusted within the family and rescaled to the audit: compare with the
            *audit's* alpha.
        rejected: Shape (F,), where ``adjusted_p`` <= audit alpha.
    """

    alpha: float
    adjusted_p: FloatArray
    rejected: BoolArray


def decide_families(
    p_values: Mapping[str, ArrayLike], alpha: float, weights: Mapping[str, float]
) -> dict[str, FamilyDecision]:
    """Holm within each family at its share of ``alpha``.

    The family-wise error over all families together is at most ``alpha``, under any dependence.

    Args:
        p_values: Shape (F,) for each family that was evaluated; a declared family may be missing.
        alpha: Level of the whole audit.
        weights: Weight of each declared family, as for :func:`alpha_split`.

    Raises:
        StatisticsError: A family that was not declared (its share would come from nowhere), or p-values not
            in [0, 1].
    """
    shares = alpha_split(alpha, weights)
    undeclared = [name for name in p_values if name not in shares]
    require(not undeclared, f"{len(undeclared)} families were tested without being declared in the split.")
    decisions = {}
    for name, family in p_values.items():
        adjusted = np.minimum(1.0, holm(family) * (alpha / shares[name]))
        decisions[name] = FamilyDecision(shares[name], adjusted, adjusted <= alpha)
    return decisions


def _p_values(values: ArrayLike) -> FloatArray:
    p = as_sample(values, "p-values", minimum=0)
    require(bool(((p >= 0) & (p <= 1)).all()), "p-values must lie in [0, 1].")
    return p
