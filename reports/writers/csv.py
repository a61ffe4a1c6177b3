"""The results as CSV (RFC 4180), one row each; no cell can become a formula in a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable

from reports.model import AuditReport
from reports.rows import COLUMNS, Cell, rows

__all__ = ["MEDIA_TYPE", "NAME", "SUFFIX", "write"]

NAME = "csv"
MEDIA_TYPE = "text/csv"
SUFFIX = ".csv"

_FORMULA = frozenset("=+-@\uff1d\uff0b\uff0d\uff20")
"""What spreadsheets take for the start of a formula, also in full width."""


def write(report: AuditReport, evidence: Callable[[str], bytes]) -> bytes:
    """A header and one line a result; an empty cell is a value that does not exist.

    Numbers are written in their shortest exact form. A text that a spreadsheet would calculate starts with an
    apostrophe.

    Args:
        report: the report.
        evidence: not used.

    Returns:
        UTF-8 with CRLF.
    """
    out = io.StringIO(newline="")
    table = csv.writer(out, lineterminator="\r\n")
    table.writerow(column.name for column in COLUMNS)
    table.writerows([_cell(cell) for cell in row] for row in rows(report))
    return out.getvalue().encode("utf-8")


def _cell(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if not isinstance(cell, str):
        return repr(cell)
    return f"'{cell}" if cell.lstrip("'\" ")[:1] in _FORMULA else cell
