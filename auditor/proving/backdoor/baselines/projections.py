"""The changes of attention's four projections, which is all that the published detectors look at."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from auditor.pipeline.base_weights import BaseWeights
from auditor.pipeline.weight_spectra import changed_weights

if TYPE_CHECKING:
    from auditor.pipeline.subject import Subject

__all__ = ["PROJECTIONS", "Changes", "averaged", "projections_of"]

Matrix = NDArray[np.float64]
Changes = Mapping[str, Sequence[Matrix]]

PROJECTIONS: Mapping[str, re.Pattern[str]] = {
    "query": re.compile(r"(to_q|q_proj|add_q_proj)$"),
    "key": re.compile(r"(to_k|k_proj|add_k_proj)$"),
    "value": re.compile(r"(to_v|v_proj|add_v_proj)$"),
    "output": re.compile(r"(to_out\.0|out_proj|to_add_out)$"),
}
"""By how modules are named in diffusers and transformers, denoisers and text encoders alike."""


def projections_of(subject: Subject) -> dict[str, list[Matrix]]:
    """The change of every projection that changes, float64 (out, in), by kind; parts that meet in one are summed."""
    found: dict[str, list[Matrix]] = {name: [] for name in PROJECTIONS}
    with subject.active("base"):
        weights = BaseWeights(subject.components)
        for (component, path), deltas in changed_weights(subject).items():
            kind = next((name for name, pattern in PROJECTIONS.items() if pattern.search(path)), None)
            weight = weights.weight(component, path) if kind else None
            if kind and weight is not None:
                found[kind].append(np.sum([delta.delta(weight) for delta in deltas], axis=0, dtype=np.float64))
    return found


def averaged(changes: Changes, describe: Callable[[Matrix], Matrix], width: int) -> Matrix:
    """What ``describe`` says of each change, (width,), averaged over layers and joined over projections.

    Args:
        changes: by projection; changes of nothing are left out.
        describe: of a matrix that is not zero.
        width: of its answer.

    Returns:
        (projections * width,), zeros for a projection of which nothing changes.
    """
    rows = []
    for name in PROJECTIONS:
        told = [describe(change) for change in changes.get(name, ()) if np.any(change)]
        rows.append(np.mean(told, axis=0) if told else np.zeros(width))
    return np.concatenate(rows)
