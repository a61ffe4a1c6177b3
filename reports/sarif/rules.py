"""Rules of a SARIF log with their help, and the taxonomies that they refer to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from reports import words
from reports.markup import code, prose
from reports.model import Reference, Severity
from reports.paths import Places
from reports.sarif.alerts import LEVELS, Alert
from reports.sarif.text import message, pascal_case, plain, rule_id

__all__ = ["MAX_TAGS", "SECURITY_SEVERITY", "Rules", "rules_of"]

MAX_TAGS = 10
"""Code scanning refuses a rule with more than 20 tags and shows the first 10."""

SECURITY_SEVERITY = {
    Severity.CRITICAL: "9.5",
    Severity.HIGH: "8.0",
    Severity.MEDIUM: "5.5",
    Severity.LOW: "3.0",
}
"""Inside the bands in which code scanning shows critical, high, medium and low; there is none for notes."""

_CWE = re.compile(r"CWE-(\d+)")
_SEVERITIES = list(Severity)


@dataclass(frozen=True)
class Rules:
    """``descriptors`` for ``tool.driver.rules``, their ``index`` by id, and ``taxonomies`` for the run."""

    descriptors: list[dict[str, Any]]
    index: dict[str, int]
    taxonomies: list[dict[str, Any]]


def rules_of(alerts: Sequence[Alert], places: Places) -> Rules:
    """One rule for each id among the alerts, by id."""
    groups: dict[str, list[Alert]] = {}
    for alert in alerts:
        groups.setdefault(rule_id(places.hide(alert.rule)), []).append(alert)
    names = sorted(groups)
    refs = dict.fromkeys(ref for alert in alerts for finding in alert.findings for ref in finding.refs)
    schemes = sorted({(ref.scheme, ref.edition) for ref in refs})
    taxonomies = [
        _taxonomy(scheme, [ref for ref in refs if (ref.scheme, ref.edition) == scheme]) for scheme in schemes
    ]
    place = {scheme: number for number, scheme in enumerate(schemes)}
    descriptors = [_descriptor(name, groups[name], place, places) for name in names]
    return Rules(descriptors, {name: number for number, name in enumerate(names)}, taxonomies)


def _descriptor(
    name: str, alerts: list[Alert], place: dict[tuple[str, str], int], places: Places
) -> dict[str, Any]:
    findings = [finding for alert in alerts for finding in alert.findings]
    worst = max((f.severity for f in findings), key=_SEVERITIES.index, default=None)
    refs = list(dict.fromkeys(ref for finding in findings for ref in finding.refs))
    why = places.hide(_shared([alert.why for alert in alerts]))
    remediation = places.hide(alerts[0].remediation)
    properties: dict[str, Any] = {"tags": _tags(name, refs, is_finding=bool(findings))}
    if worst in SECURITY_SEVERITY:
        properties["security-severity"] = SECURITY_SEVERITY[worst]
    if findings:
        properties["precision"] = findings[0].confidence
    descriptor: dict[str, Any] = {
        "id": name,
        **({"name": pascal_case(name)} if pascal_case(name) else {}),
        "shortDescription": message(places.hide(alerts[0].title), 200),
        "fullDescription": message(why or alerts[0].title),
        "help": {
            **message(f"{words.sentence(why)} What to do: {remediation}", 2000),
            "markdown": _help(alerts[0], why, remediation, refs),
        },
        "defaultConfiguration": {"level": LEVELS[worst] if worst else "warning"},
        "properties": properties,
    }
    if refs:
        descriptor["relationships"] = [_relationship(ref, place) for ref in refs]
    return descriptor


def _help(alert: Alert, why: str, remediation: str, refs: Sequence[Reference]) -> str:
    lines = [f"**Why it matters.** {prose(why)}", f"**What to do.** {prose(remediation)}"]
    if alert.result and alert.result.null:
        lines.append(f"**Null hypothesis of {code(alert.result.probe)}.** {prose(alert.result.null)}")
    if refs:
        shown = ", ".join(f"{prose(ref.scheme)} {code(ref.id)} ({prose(ref.edition)})" for ref in refs[:20])
        lines.append(f"**References.** {shown}")
    # Markdown in SARIF has placeholders too.
    return "\n\n".join(lines).replace("{", "{{").replace("}", "}}")


def _shared(texts: Sequence[str]) -> str:
    """What all the texts begin with, up to the end of a sentence; the first text if they share none."""
    if len(set(texts)) == 1:
        return texts[0]
    same = takewhile(lambda letters: len(set(letters)) == 1, zip(*texts, strict=False))
    start = "".join(letters[0] for letters in same)
    end = max(start.rfind(stop) for stop in (". ", "! ", "? "))
    return start[: end + 1] if end >= 0 else texts[0]


def _tags(name: str, refs: Sequence[Reference], *, is_finding: bool) -> list[str]:
    """``security`` makes code scanning read the severity, and CWE entries have a spelling of their own there."""
    tags = ["security"] if is_finding else []
    tags += ["model", plain(name.partition(".")[0], 40)] if "." in name else ["model"]
    for ref in refs:
        found = _CWE.fullmatch(ref.id)
        tags.append(f"external/cwe/cwe-{int(found[1]):03d}" if found else plain(f"{ref.scheme}/{ref.id}", 80))
    return list(dict.fromkeys(tags))[:MAX_TAGS]


def _taxonomy(scheme: tuple[str, str], refs: Sequence[Reference]) -> dict[str, Any]:
    taxa = dict.fromkeys(plain(ref.id) for ref in refs)
    return {
        "name": plain(scheme[0]) or "unnamed",
        "version": plain(scheme[1]) or "unknown",
        "isComprehensive": False,
        "taxa": [{"id": taxon} for taxon in taxa],
    }


def _relationship(ref: Reference, place: dict[tuple[str, str], int]) -> dict[str, Any]:
    index = place[ref.scheme, ref.edition]
    component = {"name": plain(ref.scheme) or "unnamed", "index": index}
    return {"target": {"id": plain(ref.id), "toolComponent": component}, "kinds": ["relevant"]}
