"""The zoo made, scored and split: banks that ship, false alarms by recipe class, and recipes read back from files.

Every member is trained once and scored once; both are kept, so that the same command on the same folder goes on, and
a larger number grows what is there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from auditor.contracts import Progress
from auditor.pipeline.components import Components
from auditor.pipeline.open import load_base
from auditor.proving.counts import write_json
from auditor.proving.zoo.build import batches, home_of, make, parts_made, zoo_folder
from auditor.proving.zoo.members import Member, draw_member
from auditor.proving.zoo.merged import MERGE, draw_merges
from auditor.proving.zoo.score import Measured, measure
from auditor.proving.zoo.spectra import read_spectrum
from auditor.proving.zoo.tables import write_zoo

__all__ = ["Record", "prove_zoo", "records_of"]

SCORES, SPECTRA = KEPT = ("scores", "spectra")
"""Folders of what was measured, a file a member in each."""


@dataclass(frozen=True)
class Record:
    """A member, what was measured on it, and what its weights look like by groups of layers."""

    member: Member
    measured: Measured
    spectrum: dict[str, float] = field(default_factory=dict)


def prove_zoo(
    out: Path, progress: Progress, members: int = 800, seed: int = 0, alpha: float = 0.01,
    zoo: Path | None = None, banks: Path | None = None, shard: tuple[int, int] = (0, 1), merges: int = 160,
) -> dict[str, Any]:  # fmt: skip
    """Makes and scores the zoo, and writes its banks and tables.

    Args:
        out: folder for ``scores/``, ``spectra/``, ``zoo.json``, ``zoo.csv`` and ``zoo.md``.
        progress: told of every member.
        members: how many are trained.
        seed: of all recipes.
        alpha: level at which false alarms are counted.
        zoo: where members are kept; :func:`auditor.proving.zoo.build.zoo_folder` by default.
        banks: where banks are written; ``out / "banks"`` by default.
        shard: (which, of how many) members to make here; tables are written by the process that finds all done.
        merges: how many merges of low-rank members come on top; each is made once its parts are there.

    Returns:
        The table, or ``{"done": ..., "of": ...}`` while other shards are missing.
    """
    base, home = load_base(device="cpu"), zoo or zoo_folder()
    for kept in KEPT:
        (out / kept).mkdir(parents=True, exist_ok=True)
    trained = [draw_member(i, seed) for i in range(members)]
    drawn = [*trained, *draw_merges(trained, merges, seed)]
    mine = [m for m in drawn if m.index % shard[1] == shard[0] and not _done(out, base, m)]
    done = len(drawn[shard[0] :: shard[1]]) - len(mine)
    total = done + len(mine)
    progress(done, total, "adapters")
    for batch in batches(mine):
        if batch[0].method == MERGE and not parts_made(batch[0].params, base, home):
            continue  # another shard is still at them
        make(batch, base, home)
        for member in batch:
            where = home_of(member, base, home)
            if not _path(out, base, member, SCORES).exists():
                write_json(_path(out, base, member, SCORES), asdict(measure(base, where)))
            if not _path(out, base, member, SPECTRA).exists():
                write_json(_path(out, base, member, SPECTRA), read_spectrum(base, where))
            done += 1
            progress(done, total, member.method)
    there = sum(_done(out, base, m) for m in drawn)
    if there < len(drawn):
        return {"done": there, "of": len(drawn)}
    return write_zoo(base, records_of(out, base, drawn), out, banks or out / "banks", seed, alpha)


def records_of(out: Path, base: Components, members: Sequence[Member]) -> list[Record]:
    """What ``out`` has of these members, in their order."""
    found = []
    for member in members:
        scores, spectrum = (json.loads(_path(out, base, member, kept).read_text("utf-8")) for kept in KEPT)
        found.append(Record(member, Measured.read(scores), spectrum))
    return found


def _done(out: Path, base: Components, member: Member) -> bool:
    return all(_path(out, base, member, kept).exists() for kept in KEPT)


def _path(out: Path, base: Components, member: Member, kept: str) -> Path:
    return out / kept / f"{member.digest[:24]}-{base.sha256[:8]}.json"
