"""The zoo scored by the search for hidden phrases: the bank of ``backdoor.adapter_inversion``.

Apart from the other probes of single adapters, because it costs more than all of them and can be done in part: the
first members of each split, in the zoo's order, as many as are asked for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from auditor.artifact.covariates import NO_CHANGE
from auditor.artifact.together import identify_parts
from auditor.banks import (
    SPLITS,
    BankData,
    build_bank,
    fit_adjustment,
    write_bank,
)
from auditor.contracts import Progress
from auditor.errors import AuditorError, UsageError
from auditor.pipeline.components import Components
from auditor.pipeline.open import load_base
from auditor.pipeline.subject import Subject
from auditor.probes.additions import changes_weights
from auditor.probes.backdoor.adapter_inversion import AdapterInversion, measure_inversion
from auditor.proving.counts import write_json, write_whole
from auditor.proving.memory_run import MemoryRun
from auditor.proving.zoo.bank_table import COMPARED, bank_adapter, bank_markdown, bank_table
from auditor.proving.zoo.build import home_of, zoo_folder
from auditor.proving.zoo.forensics import EXPECTED
from auditor.proving.zoo.members import Member, draw_member
from auditor.proving.zoo.merged import draw_merges
from auditor.proving.zoo.score import Measured
from auditor.registry import PROBES

__all__ = ["bank_of_inversions", "chosen_members", "measure_member", "prove_inversions"]

def chosen_members(members: int, each: int = 0, seed: int = 0, merges: int = 160) -> list[Member]:
    """Members of the zoo that change weights, the splits in turn.

    Args:
        members: of the zoo that they are drawn from.
        each: at most so many of a split; 0 for all.
        seed: of the zoo.
        merges: of the zoo, which are spread among the trained ones.
    """
    trained = [draw_member(i, seed) for i in range(members)]
    # Words alone change no weight of the base: there is nothing to search.
    alone = [member for member in trained if "embedding" not in EXPECTED[member.method]]
    merged = draw_merges(trained, merges, seed)
    chosen: list[tuple[float, int, Member]] = []
    for which, split in enumerate(SPLITS):
        mine = [[m for m in some if m.split == split] for some in (alone, merged)]
        # As far along its own row as the others are along theirs: any beginning has all kinds in proportion.
        placed = [(place / max(1, len(row)), m) for row in mine for place, m in enumerate(row)]
        placed.sort(key=lambda each: (each[0], each[1].digest))
        chosen += [(float(i), which, m) for i, (_, m) in enumerate(placed) if not each or i < each]
    return [m for _, _, m in sorted(chosen, key=lambda row: row[:2])]


def measure_member(base: Components, path: Path) -> Measured:
    """The score at default parameters of what an audit of ``path`` would read; the base stays."""
    try:
        with Subject(base, identify_parts(path)) as subject:
            covariates = subject.covariates
            coverage = (subject.coverage.keys_applied, subject.coverage.keys_total)
            if not changes_weights(subject):
                return Measured(covariates, coverage)
            found = measure_inversion(subject, AdapterInversion(), MemoryRun("backdoor.adapter_inversion"))
            top = found["top"][0]
            scores = {"adapter_inversion": float(found["score"]), "spread": float(top["spread"])}
            return Measured(covariates, coverage, scores, {"entry": top["text"], "by": top["by"]})
    except AuditorError as problem:
        return Measured(refused=str(problem))


def prove_inversions(
    out: Path, progress: Progress, members: int = 800, each: int = 0, seed: int = 0, alpha: float = 0.01,
    zoo: Path | None = None, banks: Path | None = None, shard: tuple[int, int] = (0, 1),
) -> dict[str, Any]:  # fmt: skip
    """Scores members of the zoo, and writes the bank of the search and its table; what ``out`` has is kept.

    Args:
        out: folder for ``scores/``, ``inversions.json`` and ``inversions.md``.
        progress: told of every member.
        members: of the zoo, which must have been made (``auditor prove zoo``).
        each: at most so many of a split; 0 for all.
        seed: of the zoo.
        alpha: level at which false alarms are counted.
        zoo: where members are kept.
        banks: where the bank is written; ``out / "banks"`` by default.
        shard: (which, of how many) members to score here.

    Returns:
        The table, or ``{"done": ..., "of": ...}`` while other shards are missing.

    Raises:
        UsageError: a member has not been made.
        StatisticsError: too few members in the calibrate split for ``alpha``.
    """
    base, home = load_base(device="cpu"), zoo or zoo_folder()
    chosen = chosen_members(members, each, seed)
    mine = chosen[shard[0] :: shard[1]]
    for i, member in enumerate(mine):
        path = _path(out, base, member)
        if not path.exists():
            where = home_of(member, base, home)
            if not where.exists():
                raise UsageError(f"adapter {member.index} is not in the zoo; run auditor prove zoo first")
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, asdict(measure_member(base, where)))
        progress(i + 1, len(mine), member.method)
    there = [path for member in chosen if (path := _path(out, base, member)).exists()]
    if len(there) < len(chosen):
        return {"done": len(there), "of": len(chosen)}
    measured = [Measured.read(json.loads(path.read_text("utf-8"))) for path in there]
    return _write(base, chosen, measured, out, banks or out / "banks", seed, alpha)


def bank_of_inversions(
    base: Components, members: Sequence[Member], measured: Sequence[Measured], alpha: float
) -> BankData:
    """The bank ``embedded.adapter_inversion``."""
    adapters = [bank_adapter(m, each) for m, each in zip(members, measured, strict=True) if each.scores]
    score = "adapter_inversion"
    return build_bank(
        id=f"embedded.{score}@1", probe=PROBES.get("backdoor.adapter_inversion"), base_sha256=base.sha256, score=score,
        adapters=adapters, alpha=alpha, params=AdapterInversion(),
        adjustment=fit_adjustment(adapters, score, {"denoiser_norm": NO_CHANGE}, COMPARED),
    )  # fmt: skip


def _write(
    base: Components, members: Sequence[Member], measured: Sequence[Measured], out: Path, banks: Path, seed: int,
    alpha: float,
) -> dict[str, Any]:  # fmt: skip
    bank = bank_of_inversions(base, members, measured, alpha)
    write_bank(bank, banks)
    refused = {m.method: each.refused for m, each in zip(members, measured, strict=True) if each.refused}
    table = bank_table(bank, seed, ("adapter_inversion",)) | {"refused": refused}
    write_json(out / "inversions.json", table)
    write_whole(out / "inversions.md", bank_markdown(table, "clean adapters"))
    return table


def _path(out: Path, base: Components, member: Member) -> Path:
    return out / "scores" / f"{member.digest[:24]}-{base.sha256[:8]}.json"
