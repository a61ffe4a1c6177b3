"""What a report says in words in every format: decisions, order of findings, what was not assessed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from reports.model import AuditReport, Decision, Finding, Outcome, Result, Severity, Status
from reports.numbers import interval, p_value, percent, quantity, realised_fpr

__all__ = [
    "DECISIONS",
    "EXIT_CODES",
    "DecisionWords",
    "Gap",
    "accepted",
    "Reason",
    "baseline",
    "beyond",
    "evaluated",
    "finding_counts",
    "gaps",
    "how_sure",
    "measurement",
    "not_tested",
    "ordered_findings",
    "reasons",
    "result_behind",
    "sentence",
    "smallest_effects",
    "status_note",
    "subject_name",
    "waived",
    "waiver_note",
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
            "Everything the policy asks for passed or was waived; the conditions below come with the approval.",
            "Use it only where the conditions hold.",
            "as above, with findings of low severity, with waived ones, or with other conditions of the policy",
            "0",
        ),
        Decision.INCONCLUSIVE: DecisionWords(
            "Inconclusive",
            "The audit could not decide. This is not a pass.",
            "Do not treat it as clean. Settle the reasons given and audit again.",
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
_REASON_LABELS = {
    **{decision.value: words.title for decision, words in DECISIONS.items()},
    "condition": "Condition",
    "waiver": "Waiver",
}
_NOT_EVALUATED = {Outcome.INCONCLUSIVE, Outcome.ERROR, Outcome.SKIPPED}


@dataclass(frozen=True)
class Gap:
    """One thing that was not assessed, and why."""

    topic: str
    text: str


@dataclass(frozen=True)
class Reason:
    """One reason of a verdict: the decision that it argues for, or its kind, and the text without that."""

    label: str
    text: str


def reasons(report: AuditReport) -> list[Reason]:
    """The verdict's reasons; one that argues for the decision itself has no label."""
    out = []
    for text in report.verdict.reasons:
        label, separator, rest = text.partition(": ")
        if not separator or label not in _REASON_LABELS:
            out.append(Reason("", text))
        else:
            same = label == report.verdict.decision
            first = rest.partition(" ")[0]  # a probe's id keeps its letters
            text = rest[:1].upper() + rest[1:] if first.isalpha() else rest
            out.append(Reason("" if same else _REASON_LABELS[label], text))
    return out


def waived(report: AuditReport) -> int:
    """How many findings are under a waiver."""
    return sum(finding.waiver is not None for finding in report.findings)


def waiver_note(finding: Finding) -> str:
    """Who waived a finding, until when and why, in one sentence; nothing if nobody did. Raw, untrusted text."""
    if finding.waiver is None:
        return ""
    waiver = finding.waiver
    return f"Waived by {waiver.owner} until {waiver.expires}, and so no part of the decision: {waiver.reason}"


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
    """Findings, strongest first: those that decide, then severity, calibrated before uncalibrated, confidence."""
    return sorted(
        report.findings,
        key=lambda f: (
            f.waiver is None,
            _SEVERITIES.index(f.severity),
            f.calibrated,
            _CONFIDENCES.index(f.confidence),
        ),
        reverse=True,
    )


def finding_counts(report: AuditReport) -> str:
    """As in ``1 critical, 2 low, 1 waived``; ``none`` without findings."""
    counts = Counter(finding.severity for finding in report.findings if finding.waiver is None)
    parts = [f"{counts[s]} {s.value}" for s in reversed(_SEVERITIES) if counts[s]]
    if waived(report):
        parts.append(f"{waived(report)} waived")
    return ", ".join(parts) or "none"


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
    """Everything that was not assessed: coverage, probes without an answer, then the stated limitations.

    What is said of a probe that gave a calibrated answer is not among them; see :func:`beyond`.
    """
    told = {(item.topic, item.text.partition(" ")[0]) for item in report.limitations}
    out = (
        []
        if any(topic == "coverage" for topic, _ in told)
        else [Gap("Coverage", t) for t in _coverage_gaps(report)]
    )
    answered = {result.probe for result in report.results}
    out += [
        Gap(result.probe, f"{result.outcome.value}: {sentence(result.reason) or 'no reason was given.'}")
        for result in report.results
        if result.outcome in _NOT_EVALUATED and (result.probe, "Not") not in told
    ]
    out += [
        Gap(p.id, "planned, and ended without a result.") for p in report.plan.probes if p.id not in answered
    ]
    sound = _sound_probes(report)
    return out + [Gap(item.topic, item.text) for item in report.limitations if item.topic not in sound]


def beyond(report: AuditReport) -> list[Gap]:
    """What lies beyond the tests that gave a calibrated answer, by probe."""
    sound = _sound_probes(report)
    return [Gap(item.topic, item.text) for item in report.limitations if item.topic in sound]


def not_tested(report: AuditReport, most: int = 8) -> str:
    """In one phrase, what was not assessed, by topic; raw text."""
    topics = list(dict.fromkeys(gap.topic for gap in gaps(report)))
    out = ", ".join(topics[:most]) + (f" and {len(topics) - most} more" if len(topics) > most else "")
    limited = len({gap.topic for gap in beyond(report)})
    if not limited:
        return out or "nothing that the plan asked for"
    tests = "the test that ran" if limited == 1 else f"each of {limited} tests that ran"
    return f"{out}; and what lies beyond {tests}" if out else f"what lies beyond {tests}"


def how_sure(report: AuditReport) -> str:
    """In a few sentences: how much was answered, against what it was judged, and where there is no error rate."""
    done, planned = evaluated(report)
    settled = [result for result in report.results if result.outcome in (Outcome.PASS, Outcome.FAIL)]
    judged = [result for result in settled if result.calibrated and result.bank is not None]
    loose = list(dict.fromkeys(result.probe for result in settled if not result.calibrated))
    out = [f"{done} of {planned} probes gave an answer."]
    if judged:
        sizes = sorted({result.bank.n for result in judged if result.bank is not None})
        adapters = " and ".join(f"{size:,}" for size in sizes)
        out.append(
            f"What the model does was judged beside {adapters} clean adapters, at a level at which all tests "
            f"together should hold back at most {percent(report.plan.alpha)} of clean adapters like those."
        )
    elif not loose:
        out.append("None of the answers was judged beside clean adapters.")
    banks = [result.bank for result in judged if result.bank and result.bank.realised_fpr_ci]
    if banks:
        loosest = max(banks, key=lambda bank: bank.realised_fpr_ci.high if bank.realised_fpr_ci else 0.0)
        which = ", in the bank that gives most" if len(banks) > 1 else ""
        out.append(f"False alarms on clean adapters that were held out{which}: {realised_fpr(loosest)}.")
    if loose:
        more = f" and {len(loose) - 5} more" if len(loose) > 5 else ""
        shown = ", ".join(loose[:5])
        out.append(f"Without a bank of clean adapters, and so without an error rate: {shown}{more}.")
    if smallest_effects(report):
        out.append("How small an effect would have been missed is listed with what was not tested.")
    return " ".join(out)


def smallest_effects(report: AuditReport) -> list[Result]:
    """Results that state the smallest effect they could have seen."""
    return [result for result in report.results if result.min_detectable_effect is not None]


def _sound_probes(report: AuditReport) -> set[str]:
    """Probes of which every result is a calibrated pass or fail."""
    weak = {r.probe for r in report.results if r.outcome in _NOT_EVALUATED or not r.calibrated}
    return {result.probe for result in report.results} - weak


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
