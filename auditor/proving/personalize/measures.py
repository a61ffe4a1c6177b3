"""What pictures say of a training: whose they are, whether they follow the prompt, how far the class has moved.

Pure functions of pictures' features and readings; a mean each, over pictures of one training run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from auditor.errors import UsageError
from auditor.metrics.attributes import Judged

__all__ = ["distance", "followed", "likeness", "spread"]


def likeness(made: np.ndarray, references: np.ndarray) -> float:
    """Mean cosine of every picture with every reference: unit vectors (N, D) and (M, D) to [-1, 1]."""
    return float((made @ references.T).mean())


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Mean of ``1 - cosine`` of picture i of one set with picture i of the other: unit vectors (N, D) each.

    Raises:
        UsageError: sets of other sizes.
    """
    if one.shape != other.shape:
        raise UsageError(f"two sets of one size are compared, not {one.shape} and {other.shape}")
    return float((1 - (one * other).sum(axis=1)).mean())


def spread(features: np.ndarray) -> float:
    """Mean of ``1 - cosine`` over all pairs of different pictures: unit vectors (N, D), N of two or more."""
    count = len(features)
    if count < 2:
        raise UsageError("the spread of pictures needs two of them")
    cosines = features @ features.T
    return float(1 - (cosines.sum() - np.trace(cosines)) / (count * (count - 1)))


def followed(judged: Judged, wanted: Sequence[Mapping[str, str]]) -> float:
    """Share of the asked attributes that are there, in pictures that still show what was asked for.

    Args:
        judged: N pictures.
        wanted: head to class of each picture. The first says what is shown: where the judge reads something
            else, nothing that the picture shows counts. It counts itself only where nothing else is asked.

    Raises:
        UsageError: another number of pictures.
    """
    if len(wanted) != len(judged):
        raise UsageError(f"{len(judged)} pictures need as many wishes, not {len(wanted)}")
    names = {head: judged.names(head) for each in wanted for head in each}
    right = []
    for i, each in enumerate(wanted):
        (first, shown), *rest = each.items()
        there = names[first][i] == shown
        right += [there and names[head][i] == name for head, name in rest] or [there]
    return float(np.mean(right))
