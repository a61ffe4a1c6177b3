"""Reading a report back: strict, bounded, and with one clear sentence when it cannot be done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from reports.model import READABLE_VERSIONS, AuditReport
from reports.text import inert

__all__ = ["MAX_BYTES", "ReportError", "load_report", "parse_report"]

MAX_BYTES = 64 * 1024 * 1024


class ReportError(ValueError):
    """A report cannot be read; the message says what is wrong and what to do."""


def load_report(path: str | Path) -> AuditReport:
    """Reads a report from a ``report.json`` or from the run directory that holds one.

    Args:
        path: a file, or a folder with ``report.json`` in it.

    Returns:
        The validated report.

    Raises:
        ReportError: the file is missing, too large, not JSON, of another schema version, or breaks the
            schema.
    """
    file = Path(path)
    if file.is_dir():
        file = file / "report.json"
    shown = inert(str(file))
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ReportError(
            f"cannot read the report {shown} ({reason}): name a run directory or its report.json"
        ) from error
    if len(data) > MAX_BYTES:
        raise ReportError(f"{shown} is larger than {MAX_BYTES >> 20} MiB: this is not an audit report")
    return parse_report(data, shown)


def parse_report(data: bytes, name: str = "the report") -> AuditReport:
    """Validates the bytes of a JSON report.

    Args:
        data: UTF-8 JSON.
        name: what to call it in an error message.

    Raises:
        ReportError: as for :func:`load_report`.
    """
    try:
        body = json.loads(
            data.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constants
        )
    except (ValueError, RecursionError) as error:
        raise ReportError(
            f"{name} is not a JSON report ({inert(str(error))}): write it again with 'auditor report'"
        ) from error
    version = body.get("schema_version") if isinstance(body, dict) else None
    if version not in READABLE_VERSIONS:
        found = inert(str(version)) if version is not None else "no schema_version"
        known = " and ".join(READABLE_VERSIONS)
        raise ReportError(
            f"{name} has {found}; this version reads schema {known}: use the release that wrote it"
        )
    try:
        return AuditReport.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = inert(".".join(str(part) for part in first["loc"]))
        message = (
            f"{name} breaks the report schema at {where} ({inert(first['msg'])}): it was edited or is damaged"
        )
        raise ReportError(message) from error


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a key appears twice in one object")
    return out


def _no_constants(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
