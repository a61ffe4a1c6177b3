"""The kinds of change that an adapter makes to a weight, one file each.

Every kind is a :class:`Change`: it knows the shape it fits, whether its parts belong together, and what it
adds to a base weight. Formulas follow the libraries that write the files; each file names its own.
"""

from __future__ import annotations

from auditor.artifact.deltas.change import Change, Factored, fits
from auditor.artifact.deltas.dense import Dense
from auditor.artifact.deltas.generalised import GeneralisedLowRank
from auditor.artifact.deltas.hadamard import Hadamard
from auditor.artifact.deltas.kronecker import Kronecker
from auditor.artifact.deltas.low_rank import LowRank
from auditor.artifact.deltas.overwrite import Overwrite
from auditor.artifact.deltas.rotation import Rotation
from auditor.artifact.deltas.rows import Rows
from auditor.artifact.deltas.scaled import Scaled

__all__ = [
    "Change",
    "Dense",
    "Factored",
    "GeneralisedLowRank",
    "Hadamard",
    "Kronecker",
    "LowRank",
    "Overwrite",
    "Rotation",
    "Rows",
    "Scaled",
    "fits",
]
