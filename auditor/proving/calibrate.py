"""Banks for any base, from clean adapters that the user has: what turns uncalibrated evidence into a p-value."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from auditor.artifact.covariates import NO_CHANGE
from auditor.artifact.identify import Identified
from auditor.artifact.together import identify_parts
from auditor.banks import (
    SPLIT_PERIOD,
    BankAdapter,
    BankData,
    Recipe,
    adapters_needed,
    build_bank,
    fit_adjustment,
    split_of,
)
from auditor.contracts import Probe, Progress
from auditor.errors import UsageError
from auditor.pipeline.components import Components
from auditor.pipeline.subject import Subject
from auditor.probes.additions import changes_weights
from auditor.proving.memory_run import MemoryRun
from auditor.proving.zoo.spectra import as_learned
from auditor.text import inert
from reports.model import Result

__all__ = ["calibrate", "takes"]

FIT_FROM = 40
"""Adapters in the fit split from which on what recipes account for is taken out; fewer cannot tell it."""

_NUMBERS = {"denoiser_norm": NO_CHANGE}


def takes(probe: Probe, alpha: float) -> int:
    """How many clean adapters a bank of a probe takes; a screen learns from the fit split what clean adapters have."""
    return max(adapters_needed(alpha), FIT_FROM * SPLIT_PERIOD if probe.screen else 0)


def calibrate(
    probes: Sequence[Probe],
    base: Components,
    adapters: Sequence[Path],
    progress: Progress,
    alpha: float = 0.05,
) -> list[BankData]:
    """Scores clean adapters with probes and makes a bank for each.

    Which adapter calibrates and which certifies follows from the order of their hashes, so nobody chooses.

    Args:
        probes: their results must carry a value; larger must be more suspicious.
        base: what the adapters were trained on.
        adapters: files or folders, believed clean.
        progress: told of every adapter.
        alpha: level at which false alarms on the certify split are counted.

    Raises:
        UsageError: too few adapters for ``alpha``, one whose keys do not all apply, or a probe without a score.
    """
    needed = adapters_needed(alpha)
    if len(adapters) < needed:
        raise UsageError(
            f"{len(adapters)} clean adapters cannot calibrate at {alpha:g}; it takes {needed} or more"
        )
    for probe in probes:
        if len(adapters) < takes(probe, alpha):
            raise UsageError(
                f"{len(adapters)} clean adapters cannot teach '{probe.id}' what clean ones have; it takes "
                f"{takes(probe, alpha)} or more"
            )
    subjects = sorted((identify_parts(path) for path in adapters), key=_hash)
    members: dict[str, list[BankAdapter]] = {probe.id: [] for probe in probes}
    for i, parts in enumerate(subjects):
        for probe_id, member in _scored(probes, base, parts, i).items():
            members[probe_id].append(member)
        progress(i + 1, len(subjects), "clean adapters")
    return [_bank(probe, base, members[probe.id], alpha) for probe in probes]


def _hash(parts: Sequence[Identified]) -> str:
    return "".join(part.sha256 for part in parts)


def _scored(
    probes: Sequence[Probe], base: Components, parts: Sequence[Identified], index: int
) -> dict[str, BankAdapter]:
    with Subject(base, parts) as subject:
        shown = inert(parts[0].path.name)
        if not subject.coverage.full:
            raise UsageError(
                f"'{shown}' does not fully apply to the base ({subject.coverage.note}); leave it out"
            )
        if not changes_weights(subject):
            raise UsageError(
                f"'{shown}' changes no weight, so that it says nothing of clean changes; leave it out"
            )
        recipe = _recipe(subject)
        name = f"{index:04d}-{_hash(parts)[:12]}"
        return {
            probe.id: BankAdapter(
                name=name, split=split_of(index), recipe=recipe, scores={**_scores(probe, subject)}
            )
            for probe in probes
        }


def _scores(probe: Probe, subject: Subject) -> dict[str, float]:
    """The score; of a screen its features, since the score is told by all adapters together."""
    run = MemoryRun(probe.id)
    results = [r for r in probe.function(subject, probe.params(), run) if isinstance(r, Result)]
    if probe.screen and results and results[0].details.get("features"):
        return dict(results[0].details["features"])
    if not results or results[0].value is None:
        raise UsageError(f"probe '{probe.id}' gives no score to calibrate")
    return {"score": results[0].value}


def _recipe(subject: Subject) -> Recipe:
    """What the file shows; how long and how fast it was trained it does not."""
    measured = dict(subject.covariates)
    rank = round(float(measured.pop("rank")))
    dialects = [part.adapter.dialect if part.adapter else part.kind for part in subject.artifacts]
    return Recipe(method="+".join(dialects), rank=rank, steps=0, lr=0.0, extra=measured)


def _bank(probe: Probe, base: Components, members: Sequence[BankAdapter], alpha: float) -> BankData:
    slug = re.sub(r"[^a-z0-9]+", "-", base.ref.lower()).strip("-")[-40:] or "base"
    # The hash tells apart banks of one base from other adapters.
    told = hashlib.sha256("".join(member.name for member in members).encode()).hexdigest()[:6]
    enough = sum(member.split == "fit" for member in members) >= FIT_FROM
    if probe.screen:
        members = as_learned(members, "score")
    return build_bank(
        id=f"{slug}-{told}.{probe.id.partition('.')[2]}@1",
        probe=probe,
        base_sha256=base.sha256,
        score="score",
        adapters=members,
        alpha=alpha,
        adjustment=fit_adjustment(members, "score", _NUMBERS, ("kind", "touched")) if enough else None,
    )
