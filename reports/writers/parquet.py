"""The results as Parquet: the table of the CSV with types, for fleets of reports. Needs the extra ``parquet``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reports.model import SCHEMA_VERSION, AuditReport
from reports.rows import COLUMNS, rows

__all__ = ["MEDIA_TYPE", "NAME", "SUFFIX", "write"]

NAME = "parquet"
MEDIA_TYPE = "application/vnd.apache.parquet"
SUFFIX = ".parquet"


def write(report: AuditReport, evidence: Callable[[str], bytes]) -> bytes:
    """One row a result; what does not exist is null.

    The same report and the same release of pyarrow give the same bytes; pyarrow writes its version into the
    file.

    Args:
        report: the report.
        evidence: not used.

    Raises:
        ImportError: pyarrow is not installed; the message names the extra that brings it.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as missing:
        raise ImportError(
            "writing Parquet needs pyarrow: pip install 'personalized-model-auditor[parquet]'"
        ) from missing
    kinds: dict[str, Any] = {
        "text": pyarrow.string(),
        "integer": pyarrow.int64(),
        "number": pyarrow.float64(),
        "truth": pyarrow.bool_(),
    }
    fields = [pyarrow.field(column.name, kinds[column.kind]) for column in COLUMNS]
    schema = pyarrow.schema(fields, metadata={"auditor.schema_version": SCHEMA_VERSION})
    table = pyarrow.Table.from_pylist(
        [dict(zip((column.name for column in COLUMNS), row, strict=True)) for row in rows(report)],
        schema=schema,
    )
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(table, sink)
    return bytes(sink.getvalue())
