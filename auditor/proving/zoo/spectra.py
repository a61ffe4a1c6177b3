"""The weights of members by groups of layers, and the bank of the screen that compares them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from auditor.artifact.spectral import group_features
from auditor.artifact.together import identify_parts
from auditor.banks import BankAdapter, BankData, Recipe, build_bank, fit_adjustment
from auditor.banks.distance import distances_left_out
from auditor.errors import AuditorError
from auditor.pipeline.components import Components
from auditor.pipeline.subject import Subject
from auditor.probes.backdoor.spectral_screen import (
    BY_NAME,
    BY_NUMBER,
    SpectralScreen,
    comparable,
    measure_spectra,
)
from auditor.proving.memory_run import MemoryRun
from auditor.registry import PROBES

__all__ = ["SPECTRAL", "as_learned", "read_spectrum", "spectral_bank"]

SPECTRAL = "spectral_screen"
"""Name of the bank and of its main score."""
PROBE = f"backdoor.{SPECTRAL}"
DIGITS = 6
"""That features are kept with in banks."""


def read_spectrum(base: Components, path: Path) -> dict[str, float]:
    """Features of :func:`auditor.artifact.spectral.group_features`; none where no weight changes, or it is refused."""
    try:
        with Subject(base, identify_parts(path)) as subject:
            return group_features(measure_spectra(subject, SpectralScreen(), MemoryRun(PROBE)))
    except AuditorError:
        return {}  # that it was refused, and why, is recorded with its scores


def spectral_bank(
    base: Components, adapters: Sequence[BankAdapter], spectra: Mapping[str, Mapping[str, float]], alpha: float
) -> BankData:
    """The bank ``embedded.spectral_screen``.

    Args:
        base: that the adapters were trained on.
        adapters: of the zoo, with their recipes; those without a spectrum are left out.
        spectra: name of an adapter to its features.
        alpha: level to certify at.

    Raises:
        UsageError: too few adapters to fit.
    """
    learned = as_learned([a.model_copy(update={"scores": dict(spectra[a.name])}) for a in adapters if spectra[a.name]])
    adjustment = fit_adjustment(learned, SPECTRAL, {"denoiser_norm": BY_NUMBER["denoiser_norm"]}, BY_NAME)
    return build_bank(
        id=f"embedded.{SPECTRAL}@1", probe=PROBES.get(PROBE), base_sha256=base.sha256, score=SPECTRAL, adapters=learned,
        alpha=alpha, params=SpectralScreen(), adjustment=adjustment,
    )  # fmt: skip


def as_learned(adapters: Sequence[BankAdapter], score: str = SPECTRAL) -> list[BankAdapter]:
    """Adapters whose scores are features, with the distance as their score; those of the fit split keep the features.

    What a screen needs of a bank is what clean adapters have: the fit split's features, from which it is fitted anew.
    """
    rounded = [_comparable(adapter) for adapter in adapters]
    features = sorted({name for adapter in rounded for name in adapter.scores})
    distances = distances_left_out(rounded, features, BY_NUMBER, BY_NAME)
    return [
        adapter.model_copy(
            update={"scores": {score: distances[adapter.name], **(adapter.scores if adapter.split == "fit" else {})}}
        )
        for adapter in rounded
    ]


def _comparable(adapter: BankAdapter) -> BankAdapter:
    recipe = adapter.recipe
    extra = comparable({"rank": recipe.rank, **recipe.extra})
    scores = {
        name: float(f"{value:.{DIGITS}g}") for name, value in adapter.scores.items() if not isinstance(value, tuple)
    }
    return adapter.model_copy(
        update={"recipe": Recipe(**{**recipe.model_dump(), "extra": extra}), "scores": scores}
    )
