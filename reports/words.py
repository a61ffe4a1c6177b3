"""What a report says in words in every format: decisions, order of findings, what was not assessed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from reports.model import AuditReport, Decision, Finding, Outcome, Result, Severity, Status
from reports.numbers import interval, p_value, quantity, realised_fpr

__all__ = [
    "DECISIONS",
    "EXIT_CODES",
    "DecisionWords",
    "Gap",
    "accepted",
    "baseline",
    "evaluated",
    "finding_counts",
    "gaps",
    "measurement",
    "ordered_findings",
    "result_behind",
    "sentence",
    "smallest_effects",
    "status_note",
    "subject_name",
]


@dataclass(frozen=True)
class DecisionWords:
    """A decision for people: its name, what it means, what to do now, and when the policy takes it."""

    title: str
    meaning: str
    advice: str
    when: str
    exit_code: str


DECISIONS: Mapping[Decision, DecisionWords] = MappingProxyType(
    {
        Decision.ACCEPT: DecisionWords(
            "Accept",
            "Everything the policy asks for was tested and passed.",
            "Use it. What was not tested is listed below and stays open.",
            "everything the policy asks for passed, with full coverage",
            "0",
        ),
        Decision.ACCEPT_WITH_CONDITIONS: DecisionWords(
            "Accept with conditions",
            "Everything the policy asks for passed; the conditions below come with the approval.",
            "Use it only where the conditions hold.",
            "as above, and the policy attaches conditions",
            "0",
        ),
        Decision.INCONCLUSIVE: DecisionWords(
            "Inconclusive",
            "The audit could not decide. This is not a pass.",
            "Do not treat it as clean. Settle the reasons below and audit again.",
            "coverage incomplete, nothing evaluated, or the budget spent before the policy's minimum",
            "3",
        ),
        Decision.REVIEW: DecisionWords(
            "Needs review",
            "Something was found that a person should judge before this is used.",
            "Hold it until a reviewer has read the findings.",
            "findings below the gate, or strong evidence without a calibrated bank",
            "1",
        ),
        Decision.QUARANTINE: DecisionWords(
            "Quarantine",
            "A finding reaches the policy's gate. Keep the artifact away from users.",
            "Isolate it, keep the evidence, and decide with its publisher.",
            "findings at the gate",
            "1",
        ),
        Decision.REJECT: DecisionWords(
            "Reject",
            "A finding is above the policy's gate. Do not use this artifact.",
            "Do not load, publish or merge it.",
            "findings above the gate",
            "1",
        ),
    }
)

EXIT_CODES: tuple[tuple[str, str], ...] = (
    ("0", "the decision is better than --fail-on asks for"),
    ("1", "the decision is at or worse than --fail-on (default: review)"),
    ("2", "the audit itself failed"),
    ("3", "inconclusive: not a pass, and not a finding"),
    ("4", "nothing auditable: the kind of file is not supported, and is named"),
    ("64", "the command, a name or the policy is wrong"),
)

_SEVERITIES = list(Severity)
_CONFIDENCES = ("low", "medium", "high")
_NOT_EVALUATED = {Outcome.INCONCLUSIVE, Outcome.ERROR, Outcome.SKIPPED}


@dataclass(frozen=True)
class Gap:
    """One thing that was not assessed, and why."""

    topic: str
    text: str


def subject_name(report: AuditReport) -> str:
    """The audited parts by their last path component, joined by plus signs; raw, untrusted text."""
    names = [
        re.split(r"[/\\]", item.path.rstrip("/\\"))[-1] or item.path for item in report.subject.artifacts
    ]
    return " + ".join(names) or "nothing"


def sentence(text: str) -> str:
    """The text with a full stop unless it ends in one already."""
    text = text.strip()
    return text if not text or text[-1] in ".!?…" else text + "."


def status_note(report: AuditReport) -> str:
    """One sentence where the audit itself did not end well, else nothing."""
    return {
        Status.SUCCESS: "",
        Status.ERROR: "The audit stopped with an error: what is shown is incomplete.",
        Status.CANCELLED: "The audit was cancelled: what is shown is incomplete.",
    }[report.status]


def accepted(report: AuditReport) -> bool:
    """Whether the audit ran to its end and its decision is a pass, with conditions or without."""
    passes = (Decision.ACCEPT, Decision.ACCEPT_WITH_CONDITIONS)
    return report.status is Status.SUCCESS and report.verdict.decision in passes


def ordered_findings(report: AuditReport) -> list[Finding]:
    """Findings, strongest first: severity, then calibrated before uncalibrated, then confidence."""
    return sorted(
        report.findings,
        key=lambda f: (_SEVERITIES.index(f.severity), f.calibrated, _CONFIDENCES.index(f.confidence)),
        reverse=True,
    )


def finding_counts(report: AuditReport) -> str:
    """As in ``1 critical, 2 low``; ``none`` without findings."""
    counts = Counter(finding.severity for finding in report.findings)
    return ", ".join(f"{counts[s]} {s.value}" for s in reversed(_SEVERITIES) if counts[s]) or "none"


def evaluated(report: AuditReport) -> tuple[int, int]:
    """How many probes gave a pass or a fail, of all that were planned or reported."""
    known = {probe.id for probe in report.plan.probes} | {result.probe for result in report.results}
    settled = {r.probe for r in report.results if r.outcome in (Outcome.PASS, Outcome.FAIL)}
    return len(settled), len(known)


def result_behind(finding: Finding, report: AuditReport) -> Result | None:
    """The measurement that a finding rests on: same probe or shared evidence, smallest p-value first."""
    shown = {item.sha256 for item in finding.evidence}
    related = [
        result
        for result in report.results
        if finding.rule_id == result.probe
        or finding.rule_id.startswith(result.probe + ".")
        or any(item.sha256 in shown for item in result.evidence)
    ]
    return min(
        related,
        key=lambda r: (r.outcome != Outcome.FAIL, 2.0 if r.p_value is None else r.p_value),
        default=None,
    )


def measurement(result: Result) -> str:
    """Statistic, value, interval, n and p-value in one phrase."""
    parts = []
    if result.value is not None:
        parts.append(f"{result.statistic or 'value'}: {quantity(result.value, result.unit)}")
    if result.ci:
        parts.append(interval(result.ci, result.unit))
    if result.n:
        parts.append(f"n = {result.n:,}")
    if result.p_value is not None:
        adjusted = "" if result.adjusted_p is None else f", adjusted {p_value(result.adjusted_p)}"
        parts.append(f"p = {p_value(result.p_value)}{adjusted}")
    return ", ".join(parts)


def baseline(result: Result) -> str:
    """What the measurement was compared with."""
    if result.bank:
        rate = realised_fpr(result.bank)
        return f"against {result.bank.n:,} clean adapters; realised false-positive rate {rate}"
    return (
        "an exact check, no bank needed"
        if result.calibrated
        else "uncalibrated: no bank of clean adapters for this base"
    )


def gaps(report: AuditReport) -> list[Gap]:
    """Everything that was not assessed: coverage, probes without an answer, then the stated limitations."""
    told = {(item.topic, item.text.partition(" ")[0]) for item in report.limitations}
    out = [] if any(topic == "coverage" for topic, _ in told) else [Gap("Coverage", t) for t in _coverage_gaps(report)]
    answered = {result.probe for result in report.results}
    out += [
        Gap(result.probe, f"{result.outcome.value}: {sentence(result.reason) or 'no reason was given.'}")
        for result in report.results
        if result.outcome in _NOT_EVALUATED and (result.probe, "Not") not in told
    ]
    out += [
        Gap(p.id, "planned, and ended without a result.") for p in report.plan.probes if p.id not in answered
    ]
    return out + [Gap(item.topic, item.text) for item in report.limitations]


def smallest_effects(report: AuditReport) -> list[Result]:
    """Results that state the smallest effect they could have seen."""
    return [result for result in report.results if result.min_detectable_effect is not None]


def _coverage_gaps(report: AuditReport) -> list[str]:
    coverage = report.subject.coverage
    if coverage is None:
        return ["No model was run: what the artifact makes a model do was not observed."]
    if coverage.full:
        return []
    if coverage.keys_applied < coverage.keys_total or not coverage.keys_total:
        return [
            f"{coverage.keys_applied:,} of {coverage.keys_total:,} keys applied; the rest was not tested."
        ]
    if coverage.output_differs is None:
        return ["It was not checked that the tuned model answers differently from its base."]
    return ["The tuned model answers as its base does: nothing of the artifact was observed."]
