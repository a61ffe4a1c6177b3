"""The JSON Schema of the report, generated from the model; ``python -m reports.schema`` writes it anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from reports.model import SCHEMA_VERSION, AuditReport

__all__ = ["PATH", "render", "schema"]

PATH = Path(__file__).parent / f"audit_report-{SCHEMA_VERSION}.json"


def schema() -> dict[str, Any]:
    """The schema of a written report (draft 2020-12); a writer leaves no field out, so all are required."""
    body = AuditReport.model_json_schema(mode="serialization")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:personalized-model-auditor:audit-report:{SCHEMA_VERSION}",
        **body,
    }


def render() -> str:
    """The text of the schema file."""
    return json.dumps(schema(), indent=2, sort_keys=True) + "\n"
