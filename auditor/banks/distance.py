"""How far a vector of features is from what clean adapters of its recipe have.

Each feature is first judged as a score is: less what recipes account for, in usual deviations
(:mod:`auditor.banks.adjust`). Features of one adapter go together, and there are nearly as many of them as adapters to
learn from, so that their correlations are drawn toward none by as much as Ledoit and Wolf (J. Multivariate Analysis 88,
2004) say. Everything is fitted on the fit split; what a distance is worth is for the calibrate split to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from auditor.banks.adjust import Adjustment, Covariates, fit_adjustment

if TYPE_CHECKING:
    from auditor.banks.model import BankAdapter

__all__ = ["Distance", "distances_left_out", "fit_distance", "shrunken_correlation"]

FEWEST = 10
"""Adapters that must have a feature for it to be compared by."""
FARTHEST = 12.0
"""Deviations beyond which a feature says no more: one number out of all measure would settle everything by itself."""


@dataclass(frozen=True)
class Distance:
    """What clean adapters have, and how far another one is from it.

    Attributes:
        adjustments: feature to what recipes account for in it.
        precision: inverse of the shrunken correlation of what they leave, (features, features).
    """

    adjustments: Mapping[str, Adjustment]
    precision: NDArray[np.float64]

    def rests(self, features: Mapping[str, float], covariates: Covariates) -> dict[str, float]:
        """Every known feature less what is expected of it, in usual deviations; those that are not there have none.

        Raises:
            UsageError: a covariate is missing.
        """
        return {
            name: float(np.clip(adjustment.rest(features[name], covariates), -FARTHEST, FARTHEST))
            for name, adjustment in self.adjustments.items()
            if name in features
        }

    def of(self, rests: Mapping[str, float]) -> float:
        """Mahalanobis distance of :meth:`rests`, 0 or larger; what is not there is as expected."""
        row = np.array([rests.get(name, 0.0) for name in self.adjustments])
        return float(np.sqrt(max(0.0, row @ self.precision @ row)))


def fit_distance(
    adapters: Sequence[BankAdapter],
    features: Sequence[str],
    numbers: Mapping[str, float | None],
    named: Sequence[str] = (),
) -> Distance:
    """Fits on the adapters of the fit split; others are not looked at.

    Args:
        adapters: with features among their scores.
        features: their names; one that fewer than :data:`FEWEST` have is left out.
        numbers: see :func:`auditor.banks.adjust.fit_adjustment`.
        named: likewise.

    Raises:
        UsageError: an adapter lacks a covariate.
    """
    fit = [adapter for adapter in adapters if adapter.split == "fit"]
    adjustments = {}
    for name in features:
        having = [adapter for adapter in fit if name in adapter.scores]
        if len(having) >= FEWEST:
            adjustments[name] = fit_adjustment(having, name, numbers, named)
    rests = Distance(adjustments, np.eye(len(adjustments)))
    rows = [rests.rests(_numbers(a), {n: a.covariate(n) for n in (*numbers, *named)}) for a in fit]
    table = np.array([[row.get(name, 0.0) for name in adjustments] for row in rows]).reshape(len(rows), -1)
    return Distance(adjustments, np.asarray(np.linalg.inv(shrunken_correlation(table)), np.float64))


def distances_left_out(
    adapters: Sequence[BankAdapter],
    features: Sequence[str],
    numbers: Mapping[str, float | None],
    named: Sequence[str] = (),
) -> dict[str, float]:
    """Name to distance for every adapter; those of the fit split are each judged by what the others are.

    Otherwise they would be nearer than any other adapter, and recipes be said to account for more than they do.
    """
    whole = fit_distance(adapters, features, numbers, named)
    found = {}
    for adapter in adapters:
        by = whole
        if adapter.split == "fit":
            by = fit_distance([a for a in adapters if a is not adapter], features, numbers, named)
        covariates = {name: adapter.covariate(name) for name in (*numbers, *named)}
        found[adapter.name] = by.of(by.rests(_numbers(adapter), covariates))
    return found


def shrunken_correlation(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Second moments of n rows about zero, drawn toward a multiple of the identity as Ledoit and Wolf (2004) say.

    Args:
        rows: (n, d), n of 1 or more; rests, so that zero is where clean adapters are.

    Returns:
        (d, d), positive definite.
    """
    n, d = rows.shape
    moments = rows.T @ rows / n
    level = float(np.trace(moments)) / d if d else 0.0
    if not level:
        return np.eye(d)
    away = float(np.square(moments - level * np.eye(d)).sum()) / d
    noise = float(np.square(np.square(rows).sum(1)).sum() / n - np.square(moments).sum()) / (n * d)
    share = min(1.0, noise / away) if away else 1.0
    return np.asarray((1 - share) * moments + share * level * np.eye(d))


def _numbers(adapter: BankAdapter) -> dict[str, float]:
    return {name: value for name, value in adapter.scores.items() if not isinstance(value, tuple)}
