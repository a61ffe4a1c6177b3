"""``auditor prove personalize-speed``: seconds and memory of a training step, against its networks and a plain loop.

On a processor that others use too, what decides is the processor's own time; by the clock stands beside it. Every
ratio is of two arms in the same round, its interval between order statistics of the rounds.
"""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from auditor.contracts import Progress
from auditor.errors import AuditorError, OutputError, UsageError
from auditor.pipeline.components import Components
from auditor.proving.personalize_speed.arithmetic import matmul_peak
from auditor.proving.personalize_speed.arms import Arm, Step, ceiling, networks, plain
from auditor.proving.personalize_speed.bases import open_base
from auditor.proving.personalize_speed.cases import Case, cases, noise_pictures, recipe_of
from auditor.proving.personalize_speed.race import OURS, Race
from auditor.proving.personalize_speed.record import (
    CEILING,
    NETWORKS,
    PLAIN,
    Clock,
    Record,
    read_record,
    rows_of,
    write_record,
)
from auditor.proving.personalize_speed.together import Together, time_together
from auditor.proving.pictures import write_pictures
from auditor.proving.table import Row, row, write_table
from auditor.registry import METHODS
from auditor.stats import median_interval
from auditor.text import inert

__all__ = ["prove_personalize_speed"]

_NAME = "personalize_speed"
_PROMPT = "a picture of a person"
_TWICE = 2.0
"""Adapters an hour by one batched pass that are asked for, in units of one at a time."""
_WHOLE = 120
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def prove_personalize_speed(
    out: Path,
    progress: Progress,
    *,
    methods: Sequence[str] = (),
    base: str | None = None,
    device: str = "cpu",
    dtype: str = "fp32",
    batch: int = 4,
    rounds: int = 6,
    steps: int = 6,
    together: int = 8,
) -> dict[str, Any]:
    """Times every method, one file a method, and writes ``personalize_speed.json``, ``.csv`` and ``.md``.

    Args:
        out: folder; methods that it has already with the same settings are not timed again.
        progress: told of every round.
        methods: ids; all that are registered by default.
        base: the embedded one by default; a folder, or one of
            :data:`auditor.proving.personalize_speed.bases.SHAPES`.
        device: ``cpu``, ``cuda``.
        dtype: of the base's weights: ``fp32``, as training has it, ``bf16`` or ``fp16``.
        batch: rows a step, before a method's own second set.
        rounds: laps of each arm, at least two; six are the fewest for an interval at 95 %.
        steps: in each lap.
        together: adapters of one batched pass; none are timed with 0.

    Returns:
        What the JSON holds.

    Raises:
        UsageError: an unknown method, type or device, or a number out of range.
        OutputError: ``out`` cannot be written. BaseUnavailable: the base cannot be opened.
    """
    if rounds < 2 or steps < 1 or batch < 1 or together < 0 or dtype not in DTYPES:
        raise UsageError("rounds must be two or more, steps and batch one or more, and the type fp32, bf16 or fp16")
    chosen = cases(methods)
    model = open_base(base, device, DTYPES[dtype])
    clock: Clock = "clock" if model.device.type == "cuda" else "processor"
    settings = {
        "base": model.sha256, "device": _device_name(model.device), "dtype": dtype, "batch": batch, "rounds": rounds,
        "steps": steps, "threads": torch.get_num_threads(), "torch": torch.__version__,
    }  # fmt: skip
    meter = _Meter(progress, rounds * (len(chosen) + (together > 0)))
    records = []
    for case in chosen:
        path = out / "timed" / f"{case.name.replace(', ', '-').replace(' ', '-')}.json"
        record = read_record(path, settings)
        if record is None:
            record = _timed(model, case, settings, meter.tell(case.name))
            write_record(path, record)
        records.append(record)
        meter.reach(rounds * len(records), case.name)
    side_by_side = None
    if together:
        side_by_side = time_together(model, together, rounds, steps, batch, meter.tell("batched pass"))
    peak = matmul_peak(model.device, DTYPES[dtype])
    return _write(out, records, side_by_side, settings, clock, peak, base)


def _timed(model: Components, case: Case, settings: Mapping[str, Any], tell: Callable[[], None]) -> Record:
    method, rounds, steps = METHODS.get(case.method), settings["rounds"], settings["steps"]

    def arms(step: Step) -> dict[str, Arm]:
        return {CEILING: ceiling(step), NETWORKS: networks(step), PLAIN: plain(step, _PROMPT)}

    with tempfile.TemporaryDirectory() as scratch:
        folder = write_pictures(noise_pictures(case.pictures, model.image_size), Path(scratch) / "pictures")
        recipe = recipe_of(case, settings["batch"], folder)

        def train(race: Race) -> None:
            method.fit(model, folder, recipe, Path(scratch) / "out", race)

        try:
            timed = Race(model, arms, rounds, steps, tell).time(train)
        except AuditorError as error:
            # A base that a method does not fit is no reason not to time the others; the table says so.
            return Record(case.name, settings, trouble=inert(str(error), 300))
    return Record(
        case.name, settings, timed.step.rows, sum(p.numel() for p in timed.step.trained), steps,
        {arm: [(lap.clock, lap.processor) for lap in laps] for arm, laps in timed.laps.items()},
        {arm: (peak.most, peak.added) for arm, peak in timed.memory.items()}, timed.flops,
    )  # fmt: skip


class _Meter:
    """Rounds done so far, for a progress bar."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def tell(self, label: str) -> Callable[[], None]:
        return lambda: self.reach(self._done + 1, label)

    def reach(self, done: int, label: str) -> None:
        self._done = done
        self._progress(done, self._total, label)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return platform.processor() or platform.machine()


def _write(
    out: Path, records: Sequence[Record], together: Together | None, settings: Mapping[str, Any], clock: Clock,
    peak: float, base: str | None,
) -> dict[str, Any]:  # fmt: skip
    timed = [record for record in records if not record.trouble]
    rows = [one for record in timed for one in rows_of(record, clock)]
    rows += _together_rows(together, clock) if together else []
    context = {
        **settings,
        "base": inert(base or "embedded"),
        "processors": os.cpu_count(),
        "decided by": "seconds of the processor" if clock == "processor" else "the clock",
        "product of square matrices": f"{peak / 1e9:.0f} G operations a second",
        "not timed": "; ".join(f"{r.name}: {r.trouble}" for r in records if r.trouble) or "none",
        "adapters together": together.adapters if together else 0,
        "their difference from those apart": together.difference if together else 0.0,
        "methods": [_summary(record, clock, peak) for record in timed],
    }
    record = write_table(out, _NAME, "Training steps: speed and memory", rows, context)
    table = out / f"{_NAME}.md"
    try:
        table.write_text(_markdown(context["methods"], together, clock) + table.read_text("utf-8"), "utf-8")
    except OSError as error:
        raise OutputError(f"cannot write '{inert(str(table), 200)}': {error.strerror}") from error
    return record


def _together_rows(together: Together, clock: Clock) -> list[Row]:
    group = f"{together.adapters} adapters in one pass"
    ratio = median_interval(together.ratios(clock))
    rows = [row(group, "adapters an hour, by one at a time", ratio, "x", _TWICE)]
    if clock == "processor":
        by_clock = median_interval(together.ratios("clock"))
        rows.append(row(group, "adapters an hour, by one at a time, by the clock", by_clock, "x"))
    return rows


def _summary(record: Record, clock: Clock, peak: float) -> dict[str, Any]:
    """One line of the table; bytes, seconds and shares as numbers."""
    ours = 1 / median_interval(1 / record.seconds(OURS, clock)).estimate
    memory = record.memory or {}
    most, added = memory.get(OURS, (None, None))
    return {
        "name": record.name, "rows": record.rows, "parameters": record.parameters, "seconds a step": ours,
        **{arm: record.ratio(arm, clock).estimate for arm in (CEILING, NETWORKS, PLAIN)},
        "of matrix products": record.flops / (ours * peak), "peak bytes": most, "bytes of a step": added,
        "bytes of a plain step": memory.get(PLAIN, (None, None))[1],
    }  # fmt: skip


def _markdown(lines: Sequence[Mapping[str, Any]], together: Together | None, clock: Clock) -> str:
    head = (
        "method", "rows", "trained", "steps/s", "of the ceiling", "of all its networks", "by a plain loop",
        "of matrix products", "peak MB", "a step's MB", "a plain step's MB",
    )  # fmt: skip
    out = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for line in lines:
        cells = (
            line["name"], line["rows"], f"{line['parameters']:,}", f"{1 / line['seconds a step']:.2f}",
            f"{line[CEILING]:.3f}", f"{line[NETWORKS]:.3f}", f"{line[PLAIN]:.2f} x",
            f"{100 * line['of matrix products']:.0f} %",
            *(_megabytes(line[key]) for key in ("peak bytes", "bytes of a step", "bytes of a plain step")),
        )  # fmt: skip
        out.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    if together:
        ratio = median_interval(together.ratios(clock)).estimate
        out += [
            "",
            f"{together.adapters} adapters in one pass: {ratio:.2f} x as many an hour as one at a time, "
            f"{together.an_hour(clock, _WHOLE):.0f} of {_WHOLE} steps; output factors differ by "
            f"{together.difference:.1e} of their length at most.",
        ]
    return "\n".join(out) + "\n\n"


def _megabytes(count: int | None) -> str:
    return "not known" if count is None else f"{count / 1e6:.0f}"
