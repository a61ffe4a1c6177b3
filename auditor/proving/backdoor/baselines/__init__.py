"""Published detectors, written anew from their papers, to be measured on the same subjects as ours."""

from __future__ import annotations

from auditor.proving.backdoor.baselines.canonical_spectral import canonical_spectral, canonical_spectral_of
from auditor.proving.backdoor.baselines.projections import PROJECTIONS, projections_of
from auditor.proving.backdoor.baselines.transfer import leave_one_attack_out
from auditor.proving.backdoor.baselines.weight_statistics import weight_statistics, weight_statistics_of

__all__ = [
    "PROJECTIONS", "canonical_spectral", "canonical_spectral_of", "leave_one_attack_out", "projections_of",
    "weight_statistics", "weight_statistics_of",
]  # fmt: skip
