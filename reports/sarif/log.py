"""The SARIF log: one run over all reports given to it, within what a code-scanning service takes.

Format: SARIF 2.1.0, OASIS Standard with errata 01. Limits: GitHub's published ones for code scanning (20 runs
a file, 25,000 results a run of which the 5,000 strongest are kept, 1,000 locations a result, 20 tags a rule,
10 MB gzipped).
"""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import quote

from reports import words
from reports.model import AuditReport, Outcome, Status
from reports.paths import Places
from reports.sarif.alerts import Alert, alerts_of
from reports.sarif.results import artifact_of, physical, result_of_alert
from reports.sarif.rules import rules_of
from reports.sarif.text import message, pascal_case, plain, rule_id

__all__ = ["MAX_GZIPPED", "MAX_NOTES", "MAX_RESULTS", "SCHEMA", "render"]

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
MAX_RESULTS = 5000
MAX_NOTES = 1000
MAX_GZIPPED = 10_000_000

_NOTES = {
    "probe-error": ("error", "A probe ended with an error: what it tests was not tested."),
    "probe-inconclusive": ("warning", "A probe could not decide: this is not a pass."),
    "probe-skipped": ("note", "A probe was not run: what it tests was not tested."),
    "not-assessed": ("note", "Something that the audit did not look at."),
    "left-out": ("warning", "This file is not the whole report."),
}
_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_SEMANTIC = re.compile(r"\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?")


def render(reports: Sequence[AuditReport]) -> bytes:
    """The log as indented UTF-8 JSON.

    Args:
        reports: one or more, of the same release of the tool.

    Raises:
        ValueError: there is no report, or one holds NaN or an infinity.
    """
    if not reports:
        raise ValueError("there is no report to write")
    alerts = alerts_of(reports)
    kept = min(len(alerts), MAX_RESULTS)
    data = _encoded(reports, alerts, kept)
    while kept and len(data) > MAX_GZIPPED and len(gzip.compress(data, mtime=0)) > MAX_GZIPPED:
        kept //= 2
        data = _encoded(reports, alerts, kept)
    return data


def _encoded(reports: Sequence[AuditReport], alerts: Sequence[Alert], kept: int) -> bytes:
    log = {"$schema": SCHEMA, "version": "2.1.0", "runs": [_run(reports, alerts[:kept], len(alerts) - kept)]}
    # Every text went through the inert form, so that nothing invisible is left to escape.
    return (json.dumps(log, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")


def _run(reports: Sequence[AuditReport], alerts: Sequence[Alert], left_out: int) -> dict[str, Any]:
    items = {item.path: item for report in reports for item in report.subject.artifacts}
    artifacts = {path: number for number, path in enumerate(items)}
    places = Places.of(items)
    rules = rules_of(alerts, places)
    seen: Counter[str] = Counter()
    results = []
    for alert in alerts:
        seen[alert.identity] += 1
        results.append(result_of_alert(alert, rules.index, artifacts, places, seen[alert.identity]))
    return {
        "tool": {"driver": _driver(reports[0], rules.descriptors, rules.taxonomies)},
        "automationDetails": {"id": _category(reports)},
        "columnKind": "unicodeCodePoints",
        "invocations": [_invocation(reports, artifacts, places, left_out)],
        "artifacts": [artifact_of(item, places) for item in items.values()],
        **({"taxonomies": rules.taxonomies} if rules.taxonomies else {}),
        "results": results,
        "properties": {"audits": [_audit(report, places) for report in reports]},
    }


def _driver(
    report: AuditReport, rules: list[dict[str, Any]], taxonomies: list[dict[str, Any]]
) -> dict[str, Any]:
    driver: dict[str, Any] = {"name": plain(report.tool.name), "version": plain(report.tool.version)}
    if _SEMANTIC.fullmatch(report.tool.version):
        driver["semanticVersion"] = report.tool.version
    driver["rules"] = rules
    driver["notifications"] = [_kind_of_note(name, *kind) for name, kind in _NOTES.items()]
    if taxonomies:
        driver["supportedTaxonomies"] = [
            {"name": each["name"], "index": number} for number, each in enumerate(taxonomies)
        ]
    return driver


def _kind_of_note(name: str, level: str, text: str) -> dict[str, Any]:
    told = {"text": text}
    return {
        "id": name,
        "name": pascal_case(name),
        "shortDescription": told,
        "fullDescription": told,
        "help": {"text": "The report in full is the JSON or HTML file of the same run."},
        "defaultConfiguration": {"level": level},
    }


def _category(reports: Sequence[AuditReport]) -> str:
    """What tells uploads apart: without it, the alerts of one model close those of another."""
    parts = [reports[0].plan.policy, words.subject_name(reports[0]) if len(reports) == 1 else ""]
    return "".join(quote(plain(part), safe="") + "/" for part in parts if part)


def _invocation(
    reports: Sequence[AuditReport], artifacts: dict[str, int], places: Places, left_out: int
) -> dict[str, Any]:
    broken = any(result.outcome is Outcome.ERROR for report in reports for result in report.results)
    out: dict[str, Any] = {
        "executionSuccessful": not broken and all(report.status is Status.SUCCESS for report in reports)
    }
    if all(_UTC.fullmatch(report.created) for report in reports):
        out["endTimeUtc"] = max(report.created for report in reports)
    notes = [_note(*note, artifacts, places) for note in _unique(_notes(reports, left_out))]
    if len(notes) > MAX_NOTES:
        text = f"{len(notes) - MAX_NOTES + 1:,} further notes are left out; see the JSON report."
        notes = [*notes[: MAX_NOTES - 1], _note("left-out", text, "", artifacts, places)]
    out["toolExecutionNotifications"] = notes
    return out


def _notes(reports: Sequence[AuditReport], left_out: int) -> Iterator[tuple[str, str, str]]:
    """Kind, text and audited path of each note: first what was cut, then what has no answer, then limits."""
    if left_out:
        yield "left-out", f"{left_out:,} weaker alerts are left out of this file; see the JSON report.", ""
    for report in reports:
        path = report.subject.artifacts[0].path if report.subject.artifacts else ""
        for result in report.results:
            if f"probe-{result.outcome.value}" in _NOTES:
                reason = words.sentence(result.reason) or "No reason was given."
                yield f"probe-{result.outcome.value}", f"{result.probe}: {reason}", path
    for report in reports:
        answered = {result.probe for result in report.results}
        for gap in words.gaps(report):
            if gap.topic not in answered:
                yield "not-assessed", f"{gap.topic}: {gap.text}", ""


def _unique(notes: Iterable[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    return list(dict.fromkeys(notes))


def _note(kind: str, text: str, path: str, artifacts: dict[str, int], places: Places) -> dict[str, Any]:
    out: dict[str, Any] = {
        "descriptor": {"id": kind, "index": list(_NOTES).index(kind)},
        "level": _NOTES[kind][0],
        "message": message(places.hide(text)),
    }
    if path:
        out["locations"] = [{"physicalLocation": physical(path, artifacts, places)}]
    return out


def _audit(report: AuditReport, places: Places) -> dict[str, Any]:
    done, planned = words.evaluated(report)
    return {
        "report": plain(report.id),
        "subject": [places.uri(item.path) for item in report.subject.artifacts],
        "status": report.status.value,
        "decision": report.verdict.decision.value,
        "reasons": [plain(places.hide(reason), 400) for reason in report.verdict.reasons],
        "policy": plain(report.plan.policy),
        "alpha": report.plan.alpha,
        "seed": report.plan.seed,
        "probesEvaluated": done,
        "probesPlanned": planned,
        "passed": [rule_id(r.probe) for r in report.results if r.outcome is Outcome.PASS],
    }
