"""``auditor prove personalize``: every unit once, then the table and the contact sheets of what is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from auditor.contracts import Progress
from auditor.pipeline.open import load_base
from auditor.proving.counts import write_whole
from auditor.proving.personalize.concepts import pair_path, pair_record, pairs
from auditor.proving.personalize.recipes import RECIPES, SAMPLER_STEPS, chosen
from auditor.proving.personalize.sheet import compose, line_of
from auditor.proving.personalize.shelf import read_record
from auditor.proving.personalize.tables import write_tables
from auditor.proving.personalize.targets import targets
from auditor.proving.personalize.unit import CLASS, OWN, PER_ASK, Unit, Workbench
from auditor.world.embedded import guidance_of

__all__ = ["prove_personalize", "units_of"]

MERGED = "orthogonal-adaptation"
"""The method whose adapters are made to be added."""
_DRAWING, _PAIR = 6.0, 75.0


@dataclass(frozen=True)
class _Job:
    """A file that is to be there, how to make it, and about how many seconds that takes on one core."""

    label: str
    path: Path
    seconds: float
    make: Callable[[Progress], Any]


def units_of(methods: Sequence[str], seeds: int) -> list[Unit]:
    """Every target of every method, seed by seed, so that a run that is stopped has something of each."""
    return [
        Unit(method, targets(RECIPES[method].kind)[i], seed)
        for seed in range(seeds)
        for i in range(3)
        for method in methods
    ]


def prove_personalize(
    out: Path, progress: Progress, methods: str = "", seeds: int = 3, shard: tuple[int, int] = (0, 1)
) -> dict[str, Any]:
    """Trains and measures what is not there yet, then writes table and sheets of all that is.

    Args:
        out: folder for ``units/``, ``concepts/``, ``personalize.json``, ``.csv``, ``.md``, ``.png`` and ``sheets/``.
        progress: told in seconds of one core, so that the time that is left is proportional to what is left.
        methods: names with commas; all by default.
        seeds: trainings of each method on each of its three targets.
        shard: which of how many parts to do here; every part writes the tables anew from what it finds.

    Returns:
        What ``personalize.json`` holds.

    Raises:
        UsageError: an unknown method. OutputError: ``out`` cannot be written.
    """
    names = chosen(methods)
    bench = Workbench(load_base(device="cpu", dtype=torch.float32), out)
    jobs = _jobs(bench, names, seeds)
    _work(jobs[shard[0] :: shard[1]], progress)
    return _publish(bench, _jobs(bench, list(RECIPES), seeds), seeds)


def _jobs(bench: Workbench, names: Sequence[str], seeds: int) -> list[_Job]:
    jobs = []
    for unit in units_of(names, seeds):

        def make(progress: Progress, unit: Unit = unit) -> Any:
            return bench.record(unit, progress)

        label = f"{unit.method} on {unit.target.name}"
        jobs.append(_Job(label, bench.path_of(unit), RECIPES[unit.method].seconds + _DRAWING, make))
    for pair in pairs(seeds) if MERGED in names else ():

        def make_pair(progress: Progress, pair: Any = pair) -> Any:
            return pair_record(bench.base, bench.out, pair, progress)

        jobs.append(_Job("two concepts together", pair_path(bench.base, bench.out, pair), _PAIR, make_pair))
    return jobs


def _work(jobs: Sequence[_Job], progress: Progress) -> None:
    total, done = round(sum(job.seconds for job in jobs)), 0.0
    for job in jobs:
        if not job.path.exists():
            job.make(_within(job, done, total, progress))
        done += job.seconds
        progress(round(done), total, job.label)


def _within(job: _Job, before: float, whole: int, progress: Progress) -> Progress:
    """Steps of a training as a part of all that there is to do."""

    def told(done: int, total: int, label: str = "") -> None:
        part = min(1.0, done / max(1, total)) * (job.seconds - _DRAWING)
        progress(round(before + part), whole, f"{job.label}, {label}")

    return told


def _publish(bench: Workbench, jobs: Sequence[_Job], seeds: int) -> dict[str, Any]:
    there = [job.path for job in jobs if job.path.exists()]
    records = [read_record(path) for path in there if path.parent.name == "units"]
    concepts = [read_record(path) for path in there if path.parent.name == "concepts"]
    context = {
        "units": f"{len(there)} of {len(jobs)} done",
        "seeds": seeds,
        "base_sha256": bench.base.sha256,
        "sampler": f"DDIM, {SAMPLER_STEPS} steps, guidance {guidance_of()}",
        "pictures a unit": f"{OWN} of the own prompt, {PER_ASK} of each of four compositions, {CLASS} of the class",
        "intervals": "bootstrap over units; below twenty units such intervals are too short",
    }
    _sheets(bench.out, records, {path.stem: path for path in there})
    return write_tables(bench.out, records, concepts, context)


def _sheets(out: Path, records: Sequence[dict[str, Any]], paths: dict[str, Path]) -> None:
    by_method: dict[str, list[Any]] = {}
    stems = [stem for stem, path in paths.items() if path.parent.name == "units"]
    for record, stem in zip(records, stems, strict=True):
        by_method.setdefault(record["method"], []).append(line_of(record, paths[stem].with_suffix(".png")))
    for method, lines in by_method.items():
        write_whole(out / "sheets" / f"{method}.png", compose(lines))
    if by_method:
        first = [by_method[method][0] for method in RECIPES if method in by_method]
        write_whole(out / "personalize.png", compose(first))
