"""What tables of the proving ground share: counted alarms with their exact interval, and files written whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from auditor.stats import clopper_pearson

__all__ = ["cell", "counted", "quiet", "write_json"]


def counted(alarms: int, n: int) -> dict[str, Any]:
    """Alarms among ``n`` subjects, n >= 1, with their two-sided 95 % Clopper-Pearson interval, JSON-ready."""
    exact = clopper_pearson(alarms, n)
    return {"alarms": alarms, "n": n, "rate": alarms / n, "low": exact.low, "high": exact.high}


def cell(count: dict[str, Any] | None) -> str:
    """A count as a table shows it."""
    if count is None:
        return "not measured"
    return f"{count['alarms']} of {count['n']} ({count['low']:.1%} to {count['high']:.1%})"


def write_json(path: Path, value: Any) -> None:
    """Writes the file whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", "utf-8")
    part.replace(path)


def quiet(done: int, total: int, label: str = "") -> None:
    """Progress that nobody looks at."""
