"""WSD: five statistics of the change of each of four projections, twenty numbers for a logistic regression.

*Weight space Detection of Backdoors in LoRA Adapters* (arXiv 2602.15195), for language models. Known of it are the
five statistics, that the kurtosis is of the update's entries, that projections are joined to twenty numbers and
standardised, and the logistic regression behind them. Chosen here: layers are averaged (there, layers are selected),
the entropy is of the singular values' shares as the concentration is, and the kurtosis is not reduced by 3. Attention
of denoiser and text encoder is taken together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from auditor.artifact.spectral import kurtosis
from auditor.proving.backdoor.baselines.projections import Changes, Matrix, averaged, projections_of

if TYPE_CHECKING:
    from auditor.pipeline.subject import Subject

__all__ = ["STATISTICS", "weight_statistics", "weight_statistics_of"]

STATISTICS = ("leading", "frobenius", "concentration", "entropy", "kurtosis")


def weight_statistics(subject: Subject) -> Matrix:
    """See :func:`weight_statistics_of`."""
    return weight_statistics_of(projections_of(subject))


def weight_statistics_of(changes: Changes) -> Matrix:
    """The twenty numbers, (20,): :data:`STATISTICS` of query, key, value and output.

    Args:
        changes: matrices by projection, see :data:`auditor.proving.backdoor.baselines.projections.PROJECTIONS`.
    """
    return averaged(changes, _statistics, len(STATISTICS))


def _statistics(change: Matrix) -> Matrix:
    values = np.linalg.svd(change, compute_uv=False)
    share = values / values.sum()
    seen = share[share > 0]
    entropy = -float((seen * np.log(seen)).sum())
    return np.array([values[0], np.linalg.norm(change), share[0], entropy, kurtosis(change.reshape(-1))])
