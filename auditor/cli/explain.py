"""``auditor explain``: what a probe, method, attack, writer or rule does, in its own words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click

from auditor.cli.options import json_option
from auditor.errors import UsageError
from auditor.text import did_you_mean, inert

__all__ = ["explain", "explained"]

_LABELS = {
    "goal": "Goal",
    "null": "Null hypothesis",
    "why": "Why it matters",
    "remediation": "What to do",
    "limits": "Limits",
    "stage": "Stage",
    "needs": "Needs",
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

    \b
    Examples:
      auditor explain backdoor.vocabulary_shift
      auditor explain PMA-FILE-001 --json

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
    known = list(RULES)
    for kind in KINDS:
        for row in rows(kind):
            if row["id"] == name:
                return row
            known.append(row["id"])
    raise UsageError(f"nothing is called '{inert(name)}'{did_you_mean(name, known)} (auditor list probes)")


def _lines(found: dict[str, Any]) -> Iterator[str]:
    yield f"{found['id']} ({found['kind']})"
    for key, label in _LABELS.items():
        value = found.get(key)
        if value in (None, "", [], {}):
            continue
        if key == "taxonomy":
            value = [f"{entry['scheme']} {entry['edition']}: {entry['id']}" for entry in value]
        if isinstance(value, dict):
            value = [f"{name} = {json.dumps(default)}" for name, default in value.items()]
        if key in ("needs", "consumes"):
            value = ", ".join(value)
        yield ""
        yield label
        yield from (f"  {line}" for line in (value if isinstance(value, list) else [value]))
