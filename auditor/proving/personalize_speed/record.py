"""What was timed of one training, kept in a file, and the figures that follow from it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from auditor.proving.counts import write_whole
from auditor.proving.personalize_speed.race import OURS
from auditor.proving.table import Row, row
from auditor.stats import Interval, median_interval

__all__ = ["CEILING", "NETWORKS", "PLAIN", "Clock", "Record", "read_record", "rows_of", "write_record"]

CEILING, NETWORKS, PLAIN = "ceiling", "networks", "plain"
Clock = Literal["clock", "processor"]
TARGETS = {CEILING: 0.95, PLAIN: 1.0}
"""Least share of the ceiling's speed, and least speed in units of the plain loop's."""
_MEASURES = {
    CEILING: ("share of the ceiling's speed", "share"),
    NETWORKS: ("share of all its networks' speed", "share"),
    PLAIN: ("speed by a plain loop's", "x"),
}


@dataclass(frozen=True)
class Record:
    """One training.

    Attributes:
        name: the case.
        settings: what it was timed with; another setting is another record.
        rows: latents a step.
        parameters: numbers that are trained.
        steps: in each lap.
        laps: arm to laps, each (seconds by the clock, seconds of the processor).
        memory: arm to bytes (most of the process or accelerator, of it added by one step), or None.
        flops: operations of the ceiling's step.
        trouble: why it could not be timed; everything above is then empty.
    """

    name: str
    settings: Mapping[str, Any]
    rows: int = 0
    parameters: int = 0
    steps: int = 0
    laps: Mapping[str, list[tuple[float, float]]] | None = None
    memory: Mapping[str, tuple[int | None, int | None]] | None = None
    flops: int = 0
    trouble: str = ""

    def seconds(self, arm: str, clock: Clock) -> np.ndarray:
        """Seconds a step in each lap of an arm, (rounds,)."""
        assert self.laps is not None
        return np.asarray(self.laps[arm])[:, 0 if clock == "clock" else 1] / self.steps

    def ratio(self, arm: str, clock: Clock) -> Interval:
        """Another arm's seconds by ours in the same round: our speed in units of its."""
        return median_interval(self.seconds(arm, clock) / self.seconds(OURS, clock))


def rows_of(record: Record, clock: Clock) -> Iterator[Row]:
    """The figures of a record that was timed: speed, and ratios by the clock that decides and by the other."""
    yield row(record.name, "steps a second, by the clock", median_interval(1 / record.seconds(OURS, "clock")), "/s")
    if clock == "processor":
        speed = median_interval(1 / record.seconds(OURS, "processor"))
        yield row(record.name, "steps a second of one processor", speed, "/s")
    for arm, (measure, unit) in _MEASURES.items():
        yield row(record.name, measure, record.ratio(arm, clock), unit, TARGETS.get(arm))
        if clock == "processor":
            yield row(record.name, f"{measure}, by the clock", record.ratio(arm, "clock"), unit)


def read_record(path: Path, settings: Mapping[str, Any]) -> Record | None:
    """A record of these settings, or None: not there, of other settings, or cut short."""
    try:
        record = Record(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return record if record.settings == settings and not record.trouble else None


def write_record(path: Path, record: Record) -> None:
    """Writes it whole or not at all.

    Raises:
        OutputError: the folder cannot be written.
    """
    write_whole(path, json.dumps(asdict(record)))
