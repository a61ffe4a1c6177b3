"""``auditor explain``: what a probe, method, attack, writer, rule, policy or mapping does, in its own words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click

from auditor.cli.options import json_option
from auditor.errors import UsageError
from auditor.text import did_you_mean, inert

__all__ = ["explain", "explained"]

POLICY = "policy"
MAPPING = "mapping:"

_LABELS = {
    "goal": "Goal",
    "null": "Null hypothesis",
    "why": "Why it matters",
    "remediation": "What to do",
    "keys": "Keys",
    "controls": "Controls",
    "limits": "Limits",
    "stage": "Stage",
    "needs": "Needs",
    "on_request": "On request",
    "consumes": "Uses results of",
    "bank": "Bank of clean adapters",
    "version": "Version",
    "embed_point": "Embeds at",
    "media_type": "Media type",
    "suffix": "File suffix",
    "params": "Parameters and their defaults",
    "taxonomy": "Taxonomies",
    "refs": "References",
}


@click.command()
@click.argument("name", metavar="ID")
@json_option
def explain(name: str, format_: str) -> None:
    """Say what a probe, method, attack, defense, watermark, writer or rule does, and where it is from.

    'policy' explains the keys of policy files, 'mapping:NAME@EDITION' what counts as evidence for a framework.

    \b
    Examples:
      auditor explain backdoor.vocabulary_shift
      auditor explain PMA-FILE-001 --json
      auditor explain policy
      auditor explain mapping:nist-ai-600-1@2024-07

    \b
    Exit codes: 0 explained, 64 no such id
    """  # noqa: D301
    found = explained(name)
    click.echo(
        json.dumps(found, indent=2, ensure_ascii=True) if format_ == "json" else "\n".join(_lines(found))
    )


def explained(name: str) -> dict[str, Any]:
    """Everything known under an id, as plain JSON values.

    Raises:
        UsageError: there is nothing of that name; the closest is named.
    """
    from auditor.cli.catalogue import KINDS, rows
    from auditor.probes.static.rules import RULES

    if name in RULES:
        rule = RULES[name]
        taxonomy = [{"scheme": ref.scheme, "edition": ref.edition, "id": ref.id} for ref in rule.refs]
        return {
            "id": rule.id,
            "kind": "rule",
            "goal": rule.title,
            "why": rule.why,
            "remediation": rule.remediation,
            "taxonomy": taxonomy,
        }
    if name == POLICY:
        return _policy_keys()
    if name.startswith(MAPPING):
        from auditor.cli.mappings import mapping_shown

        return mapping_shown(name.removeprefix(MAPPING))
    known = [POLICY, *RULES]
    for kind in KINDS:
        for row in rows(kind):
            if row["id"] == name:
                return row
            known.append(row["id"])
    raise UsageError(f"nothing is called '{inert(name)}'{did_you_mean(name, known)} (auditor list probes)")


def _policy_keys() -> dict[str, Any]:
    from auditor.policy.schema import schema

    body = schema()
    waiver = body["$defs"]["WaiverRule"]
    return {
        "id": POLICY,
        "kind": "file format",
        "goal": body["description"],
        "keys": [
            *_described(body),
            "waivers[]: what each waiver says.",
            *(f"  {line}" for line in _described(waiver)),
        ],
        "limits": "'auditor policy check FILE' says what is wrong with a file, 'auditor policy schema' is for editors.",
    }


def _described(schema: dict[str, Any]) -> list[str]:
    needed = schema.get("required", [])
    return [
        f"{key} ({'needed' if key in needed else _default(about)}): {about['description']}"
        for key, about in schema["properties"].items()
    ]


def _default(about: dict[str, Any]) -> str:
    value = about.get("default")
    if isinstance(value, dict) and value:
        return "default " + ", ".join(f"{key}: {each}" for key, each in value.items())
    return "left out by default" if value in (None, "", [], {}) else f"default {json.dumps(value)}"


def _control(row: dict[str, Any]) -> str:
    if not row["requires"]:
        return f"{row['id']}: {row['title']} [no probe can answer it]"
    asked = ", ".join(
        f"{name} with n >= {row['min_n'][name]}" if name in row["min_n"] else name for name in row["requires"]
    )
    return f"{row['id']}: {row['title']} [{row['evidence_rule']}: {asked}; coverage {row['coverage']}]"


def _lines(found: dict[str, Any]) -> Iterator[str]:
    yield f"{found['id']} ({found['kind']})"
    for key, label in _LABELS.items():
        value = found.get(key)
        if value in (None, "", [], {}):
            continue
        if key == "taxonomy":
            value = [f"{entry['scheme']} {entry['edition']}: {entry['id']}" for entry in value]
        if key == "controls":
            value = [_control(row) for row in value]
        if isinstance(value, dict):
            value = [f"{name} = {json.dumps(default)}" for name, default in value.items()]
        if key in ("needs", "consumes"):
            value = ", ".join(value)
        yield ""
        yield label
        yield from (f"  {line}" for line in (value if isinstance(value, list) else [value]))
