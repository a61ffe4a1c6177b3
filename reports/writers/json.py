"""The report as JSON: the format that everything else is made from."""

from __future__ import annotations

import json
from collections.abc import Callable

from reports.load import parse_report
from reports.model import AuditReport
from reports.text import invisible

__all__ = ["MEDIA_TYPE", "NAME", "SUFFIX", "write"]

NAME = "json"
MEDIA_TYPE = "application/json"
SUFFIX = ".json"


def write(report: AuditReport, evidence: Callable[[str], bytes]) -> bytes:
    """Indented UTF-8 JSON in the model's own order, read back and compared before it is returned.

    Letters of any script stay readable; characters that a terminal or an editor would act on or hide are
    written as JSON escapes, which read back as the same text.

    Args:
        report: the report.
        evidence: not used; files are referred to by hash.

    Raises:
        ValueError: the report holds NaN, an infinity, or breaks its schema.
    """
    # Dumping to JSON turns NaN into null; only the validators of the model see it.
    AuditReport.model_validate(report.model_dump(warnings="none"))
    text = json.dumps(report.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False)
    data = (_escape_invisible(text) + "\n").encode("utf-8")
    if parse_report(data).canonical() != report.canonical():
        raise ValueError(
            "the report does not survive being written as JSON: a value in it is not a JSON value"
        )
    return data


def _escape_invisible(text: str) -> str:
    table = {ord(char): json.dumps(char)[1:-1] for char in set(text) if char != "\n" and invisible(char)}
    return text.translate(table)
