"""Pickles are parsed in a subprocess with limits, and never executed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from auditor.artifact.pickle_guard.client import convert_allowed, inspect_and_convert, inspect_pickle
    from auditor.artifact.pickle_guard.guard import Guard
    from auditor.artifact.pickle_guard.report import GlobalRef, PickleReport

__all__ = ["GlobalRef", "Guard", "PickleReport", "convert_allowed", "inspect_and_convert", "inspect_pickle"]


def __getattr__(name: str) -> Any:
    # Loaded on first use: the subprocess imports this package too, and needs neither.
    if name in ("convert_allowed", "inspect_and_convert", "inspect_pickle"):
        from auditor.artifact.pickle_guard import client

        return getattr(client, name)
    if name == "Guard":
        from auditor.artifact.pickle_guard.guard import Guard

        return Guard
    if name in ("GlobalRef", "PickleReport"):
        from auditor.artifact.pickle_guard import report

        return getattr(report, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
