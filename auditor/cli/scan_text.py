"""The outcome of a scan for people: one block a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from auditor.text import inert

__all__ = ["block"]

_MARKS = {True: "agrees", False: "CONTRADICTED", None: "cannot be checked"}
_EVIDENCE, _CLAIMS, _WIDTH = 3, 12, 10


def block(report: dict[str, Any]) -> str:
    """A block of plain lines for one report in the shape of ``AuditReport``."""
    return "\n".join(_lines(report))


def _lines(report: dict[str, Any]) -> Iterator[str]:
    artifact = report["subject"]["artifacts"][0]
    yield artifact["path"]
    yield _line("kind", _kind(artifact))
    if artifact["family"]:
        evidence = artifact["family_evidence"]
        yield _line("family", f"{artifact['family']}: {evidence[0] if evidence else 'no evidence'}")
        yield from (_line("", each) for each in evidence[1:_EVIDENCE])
        if len(evidence) > _EVIDENCE:
            yield _line("", f"and {len(evidence) - _EVIDENCE} more")
    if artifact["kind"] == "adapter":
        yield _line("rank", artifact["rank"] or "no low-rank changes")
        yield _line("modules", f"{artifact['modules']} changed, stored as {artifact['dtype']}")
    yield from _claims(report["subject"]["claims"], artifact["kind"])
    yield from _notes(artifact["notes"])
    yield _line("sha256", artifact["sha256"] or "not computed")
    for finding in report["findings"]:
        yield _line(finding["severity"], f"{finding['rule_id']} {finding['title']}")
        yield _line("", finding["why"])
        yield _line("", finding["remediation"])
    verdict = report["verdict"]
    yield _line("verdict", f"{verdict['decision']}: {inert(verdict['reasons'][0], 400)}")


def _kind(artifact: dict[str, Any]) -> str:
    dialect = f", {artifact['dialect']} dialect" if artifact["dialect"] else ""
    return f"{artifact['kind'].replace('_', ' ')}{dialect}, {artifact['size']:,} bytes"


def _claims(claims: list[dict[str, Any]], kind: str) -> Iterator[str]:
    if kind != "adapter":
        return
    if not claims:
        yield _line("claims", "none")
    for position, claim in enumerate(claims[:_CLAIMS]):
        note = f" ({claim['note']})" if claim["note"] else ""
        told = (
            f"{claim['name']} = {claim['claimed']}, measured {claim['measured']}: "
            f"{_MARKS[claim['agrees']]}{note}"
        )
        yield _line("" if position else "claims", told)
    if len(claims) > _CLAIMS:
        yield _line("", f"and {len(claims) - _CLAIMS} more")


def _notes(notes: list[str]) -> Iterator[str]:
    for position, note in enumerate(notes):
        yield _line("" if position else "notes", note)


def _line(label: str, text: str) -> str:
    return f"  {label:<{_WIDTH}}{text}"
