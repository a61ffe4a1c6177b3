"""Report writers by name, found through entry points."""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from typing import cast

from auditor.contracts import Writer
from auditor.errors import UsageError
from auditor.text import did_you_mean, inert

__all__ = ["WRITER_GROUP", "writer_named", "writer_names"]

WRITER_GROUP = "auditor.writers"


def writer_names() -> list[str]:
    """Names of all writers, sorted."""
    return sorted({point.name for point in entry_points(group=WRITER_GROUP)})


def writer_named(name: str) -> Writer:
    """Imports a writer.

    Raises:
        UsageError: there is none of that name, or its package is installed wrongly.
    """
    for point in entry_points(group=WRITER_GROUP):
        if point.name == name:
            try:
                # A writer is a module; mypy cannot see that a module fits the protocol.
                return cast(Writer, importlib.import_module(point.value))
            except ImportError as error:
                raise UsageError(
                    f"writer '{inert(name)}' cannot be imported ({inert(str(error))}); install its package "
                    "again"
                ) from error
    raise UsageError(
        f"unknown writer '{inert(name)}'{did_you_mean(name, writer_names())} (auditor list writers)"
    )
