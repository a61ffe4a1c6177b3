"""Sixteen numbers of the spectrum of each projection's change, after Z-PEFT (arXiv 2608.02271).

Known of the published list is that it has sixteen numbers, of the singular values of the update alone, so that no
factorisation changes them, for each head, projection and layer, and that a classifier is trained on them. The list
itself is reconstructed: what the literature commonly says of a spectrum, three norms, six measures of how many
directions there are, four shares of the energy, two gaps and a slope. Heads are not taken apart, and layers are
averaged, since specimens are too few for as many columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from auditor.artifact.spectral import evenness
from auditor.proving.backdoor.baselines.projections import Changes, Matrix, averaged, projections_of

if TYPE_CHECKING:
    from auditor.pipeline.subject import Subject

__all__ = ["NUMBERS", "canonical_spectral", "canonical_spectral_of"]

NUMBERS = (
    "log_frobenius", "log_spectral", "log_nuclear",
    "stable_rank", "effective_rank", "participation", "entropy", "evenness", "median_share",
    "energy_1", "energy_2", "energy_4", "energy_8",
    "gap_1", "gap_2", "slope",
)  # fmt: skip
_SMALLEST = 1e-6
"""Of the largest singular value: what is below is rounding, and not counted."""


def canonical_spectral(subject: Subject) -> Matrix:
    """See :func:`canonical_spectral_of`."""
    return canonical_spectral_of(projections_of(subject))


def canonical_spectral_of(changes: Changes) -> Matrix:
    """The numbers of query, key, value and output, (64,).

    Args:
        changes: matrices by projection, see :data:`auditor.proving.backdoor.baselines.projections.PROJECTIONS`.
    """
    return averaged(changes, _numbers, len(NUMBERS))


def _numbers(change: Matrix) -> Matrix:
    every = np.linalg.svd(change, compute_uv=False)
    values = every[every > _SMALLEST * every[0]]
    energy = np.square(values) / np.square(values).sum()
    share = values / values.sum()
    entropy = -float((share * np.log(share)).sum())
    spread = -float((energy * np.log(energy)).sum()) / np.log(max(2, len(values)))
    padded = np.concatenate([values, np.full(3, _SMALLEST * values[0])])
    orders = np.log(np.arange(1, len(values) + 1))
    slope = float(np.polyfit(orders, np.log(values), 1)[0]) if len(values) > 1 else 0.0
    return np.array([
        np.log10(np.linalg.norm(values)), np.log10(values[0]), np.log10(values.sum()),
        1 / energy[0], np.exp(entropy), 1 / np.square(energy).sum(), spread, evenness(values),
        np.median(values) / values[0],
        *(energy[:k].sum() for k in (1, 2, 4, 8)),
        np.log(padded[0] / padded[1]), np.log(padded[1] / padded[2]), slope,
    ])  # fmt: skip
