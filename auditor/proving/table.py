"""A table of measured figures: value, n, interval, target; written as JSON, CSV and Markdown."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any

from auditor.proving.counts import write_whole
from auditor.stats import Interval

__all__ = ["Row", "csv_of_rows", "csv_text", "row", "write_table"]


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        group: What is measured: a model.
        measure: Which figure of it.
        value: In ``unit``.
        unit: ``dB`` or ``share``.
        n: Independent units behind it.
        low: Lower end of the interval.
        high: Upper end.
        level: Nominal coverage.
        method: How the interval was made.
        target: What was asked for; None where nothing was.
        met: Whether ``value`` reaches ``target``; None without one.
    """

    group: str
    measure: str
    value: float
    unit: str
    n: int
    low: float
    high: float
    level: float
    method: str
    target: float | None
    met: bool | None


def row(
    group: str, measure: str, interval: Interval, unit: str = "share", target: float | None = None
) -> Row:
    """A row from an interval with its estimate; the value as measured meets a target, not a rounded one."""
    value = float(interval.estimate)
    met = None if target is None else bool(value >= target)
    return Row(
        group,
        measure,
        value,
        unit,
        interval.n,
        interval.low,
        interval.high,
        interval.level,
        interval.method,
        target,
        met,
    )


def write_table(
    out: Path, name: str, title: str, rows: Sequence[Row], context: dict[str, Any]
) -> dict[str, Any]:
    """Writes ``name.json``, ``name.csv`` and ``name.md`` into ``out`` and returns what the JSON holds.

    Raises:
        OutputError: The folder cannot be written.
    """
    record = {"title": title, **context, "rows": [asdict(one) for one in rows]}
    texts = {
        "json": json.dumps(record, indent=1) + "\n",
        "csv": csv_of_rows(rows),
        "md": _markdown(title, rows, context),
    }
    for suffix, text in texts.items():
        write_whole(out / f"{name}.{suffix}", text)
    return record


def csv_of_rows(rows: Iterable[Row]) -> str:
    """Every field of every row, as CSV."""
    return csv_text([field.name for field in fields(Row)], map(astuple, rows))


def csv_text(header: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """A header and lines as CSV with Unix line ends; None is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    return text.getvalue()


def _markdown(title: str, rows: Sequence[Row], context: dict[str, Any]) -> str:
    lines = [
        f"# {title}",
        "",
        "| | figure | value | 95 % interval | n | target | |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in rows:
        target = "" if one.target is None else _shown(one.target, one.unit)
        verdict = {None: "", True: "met", False: "short"}[one.met]
        between = f"{_shown(one.low, one.unit)} to {_shown(one.high, one.unit)}"
        cells = (one.group, one.measure, _shown(one.value, one.unit), between, str(one.n), target, verdict)
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        *(f"- {key}: {value}" for key, value in context.items() if isinstance(value, str | int | float)),
        "",
    ]
    return "\n".join(lines)


def _shown(value: float, unit: str) -> str:
    return f"{100 * value:.1f} %" if unit == "share" else f"{value:.2f} {unit}"
