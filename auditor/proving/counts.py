"""What tables of the proving ground share: counted alarms with their exact interval, and files written whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from auditor.engine.files import output_errors, write_atomic
from auditor.stats import clopper_pearson

__all__ = ["cell", "counted", "quiet", "write_json", "write_whole"]


def counted(alarms: int, n: int) -> dict[str, Any]:
    """Alarms among ``n`` subjects, n >= 1, with their two-sided 95 % Clopper-Pearson interval, JSON-ready."""
    exact = clopper_pearson(alarms, n)
    return {"alarms": alarms, "n": n, "rate": alarms / n, "low": exact.low, "high": exact.high}


def cell(count: dict[str, Any] | None) -> str:
    """A count as a table shows it."""
    if count is None:
        return "not measured"
    return f"{count['alarms']} of {count['n']} ({count['low']:.1%} to {count['high']:.1%})"


def write_whole(path: Path, content: str | bytes) -> Path:
    """Writes the file whole or not at all, text as UTF-8; folders above it are made.

    Raises:
        OutputError: it cannot be written.
    """
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content.encode() if isinstance(content, str) else content)
    return path


def write_json(path: Path, value: Any) -> Path:
    """As :func:`write_whole`, with sorted keys."""
    return write_whole(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def quiet(done: int, total: int, label: str = "") -> None:
    """Progress that nobody looks at."""
