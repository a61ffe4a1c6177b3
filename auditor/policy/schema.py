"""The JSON Schema of a policy file, generated from the model; ``python -m auditor.policy.schema`` writes it anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from auditor.policy.model import Policy

__all__ = ["PATH", "VERSION", "render", "schema"]

VERSION = "1"
PATH = Path(__file__).parent / f"policy-{VERSION}.schema.json"


def schema() -> dict[str, Any]:
    """The schema of what an author writes (draft 2020-12): defaults may be left out."""
    body = Policy.model_json_schema(mode="validation")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:personalized-model-auditor:policy:{VERSION}",
        **body,
        "description": "An audit policy: what has to be tested, at which level, and what follows from it.",
    }


def render() -> str:
    """The text of the schema file."""
    return json.dumps(schema(), indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    PATH.write_text(render(), encoding="utf-8")
