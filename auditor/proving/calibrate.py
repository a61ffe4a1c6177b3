"""A bank for any base, from clean adapters that the user has: what turns uncalibrated evidence into a p-value."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from auditor.artifact.identify import Identified, identify
from auditor.banks import BankAdapter, BankData, Recipe, build_bank, split_of
from auditor.contracts import Probe, Progress
from auditor.errors import UsageError
from auditor.pipeline.components import Components
from auditor.pipeline.subject import Subject
from auditor.proving.memory_run import MemoryRun
from auditor.stats import bank_size_for
from auditor.text import inert
from reports.model import Result

__all__ = ["calibrate"]


def calibrate(
    probe: Probe, base: Components, adapters: Sequence[Path], progress: Progress, alpha: float = 0.05
) -> BankData:
    """Scores clean adapters with a probe and makes a bank of them.

    Which adapter calibrates and which certifies follows from the order of their hashes, so nobody chooses.

    Args:
        probe: its results must carry a value; larger must be more suspicious.
        base: what the adapters were trained on.
        adapters: files or folders, believed clean.
        progress: told of every adapter.
        alpha: level at which false alarms on the certify split are counted.

    Raises:
        UsageError: too few adapters for ``alpha``, one whose keys do not all apply, or a probe without a score.
    """
    needed = -(-bank_size_for(alpha) * 5 // 3)
    if len(adapters) < needed:
        raise UsageError(
            f"{len(adapters)} clean adapters cannot calibrate at {alpha:g}; it takes {needed} or more"
        )
    ordered = sorted(adapters, key=lambda path: hashlib.sha256(path.name.encode()).hexdigest())
    members = []
    for i, path in enumerate(ordered):
        members.append(_member(probe, base, path, i))
        progress(i + 1, len(ordered), "clean adapters")
    slug = re.sub(r"[^a-z0-9]+", "-", base.ref.lower()).strip("-")[-40:] or "base"
    name = f"{slug}.{probe.id.partition('.')[2]}@1"
    return build_bank(
        id=name, probe=probe, base_sha256=base.sha256, score="score", adapters=members, alpha=alpha
    )


def _member(probe: Probe, base: Components, path: Path, index: int) -> BankAdapter:
    part = identify(path)
    with Subject(base, [part]) as subject:
        if not subject.coverage.full:
            raise UsageError(
                f"'{inert(path.name)}' does not fully apply to the base ({subject.coverage.note}); leave it out"
            )
        results = [
            r for r in probe.function(subject, probe.params(), MemoryRun(probe.id)) if isinstance(r, Result)
        ]
        if not results or results[0].value is None:
            raise UsageError(f"probe '{probe.id}' gives no score to calibrate")
        return BankAdapter(
            name=f"{index:04d}-{part.sha256[:12]}",
            split=split_of(index),
            recipe=_recipe(part),
            scores={"score": results[0].value},
        )


def _recipe(part: Identified) -> Recipe:
    adapter = part.require_adapter()
    return Recipe(method=adapter.dialect, rank=adapter.rank or 0, steps=0, lr=0.0)
