"""What a code-scanning page should show: findings by probe and rule, failed probes, audits that did not decide."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from reports import words
from reports.by_probe import result_of, unexplained
from reports.model import AuditReport, Decision, Finding, Outcome, Result, Severity, Status

__all__ = ["LEVELS", "Alert", "alerts_of"]

LEVELS = {
    Severity.CRITICAL: "error",
    Severity.HIGH: "error",
    Severity.MEDIUM: "warning",
    Severity.LOW: "note",
    Severity.INFO: "note",
}
_SEVERITIES = list(Severity)


@dataclass(frozen=True)
class Alert:
    """One result of the log.

    Attributes:
        report: the audit it is from.
        rule: id of the rule, raw text.
        severity: the worst of its findings; None for what is no finding.
        title: one line, raw text.
        why: what it means, raw text.
        remediation: what to do, raw text.
        findings: those it stands for, strongest first.
        result: the measurement behind it.
    """

    report: AuditReport
    rule: str
    severity: Severity | None
    title: str
    why: str
    remediation: str
    findings: tuple[Finding, ...] = ()
    result: Result | None = None

    @property
    def waived(self) -> bool:
        """Whether its findings are under a waiver; findings with and without one are never put together."""
        return any(finding.waiver for finding in self.findings)

    @property
    def level(self) -> str:
        """SARIF's level."""
        return LEVELS[self.severity] if self.severity else "warning"

    @property
    def rank(self) -> tuple[bool, int]:
        """Sorts the strongest to the front: what still decides, then by severity."""
        return self.waived, -_SEVERITIES.index(self.severity or Severity.MEDIUM)

    @property
    def fingerprint(self) -> str:
        """Equal for the same findings in re-labelled copies of the same tensors, in hexadecimal."""
        found = sorted({finding.fingerprint for finding in self.findings})
        return found[0] if len(found) == 1 else _digest(*found) if found else self.identity

    @property
    def identity(self) -> str:
        """Equal for the same rule and the same weights, so that an alert lives on where its details change."""
        hashes = (item.tensor_hash or item.sha256 or item.path for item in self.report.subject.artifacts)
        return _digest(self.rule, *hashes)


def alerts_of(reports: Sequence[AuditReport]) -> list[Alert]:
    """All alerts of some reports, strongest first."""
    found = [alert for report in reports for alert in _alerts(report)]
    return sorted(found, key=lambda alert: alert.rank)


def _alerts(report: AuditReport) -> Iterator[Alert]:
    found = [*_findings(report), *_failed(report)]
    yield from found
    if not words.accepted(report) and (_undecided(report) or all(alert.waived for alert in found)):
        yield _verdict(report)


def _findings(report: AuditReport) -> Iterator[Alert]:
    groups: dict[tuple[str, str, bool], list[Finding]] = {}
    for finding in words.ordered_findings(report):
        result = result_of(finding, report)
        key = (result.probe if result else "", finding.rule_id, finding.waiver is not None)
        groups.setdefault(key, []).append(finding)
    for (_, rule, _), found in groups.items():
        first = found[0]
        yield Alert(
            report,
            rule,
            first.severity,
            first.title,
            first.why,
            first.remediation,
            tuple(found),
            result_of(first, report),
        )


def _failed(report: AuditReport) -> Iterator[Alert]:
    """Probes that failed and said nothing further."""
    failed = [result for result in report.results if result.outcome is Outcome.FAIL]
    for result in unexplained(failed, report):
        yield Alert(
            report,
            result.probe,
            None,
            f"{result.probe} failed",
            result.reason or f"The null hypothesis was rejected: {result.null or 'none was stated'}",
            "Read the result in the report, and judge it before the model is used.",
            result=result,
        )


def _verdict(report: AuditReport) -> Alert:
    """The decision itself, where no other alert says so: an empty page reads as clean."""
    decision = words.DECISIONS[report.verdict.decision]
    title = f"The decision of the audit is: {decision.title}"
    if _undecided(report):
        decision = words.DECISIONS[Decision.INCONCLUSIVE]
        title = "The audit did not decide: this is not a pass"
    told = words.status_note(report) or decision.meaning
    return Alert(
        report,
        f"audit.{report.verdict.decision.value}" if report.status is Status.SUCCESS else "audit.incomplete",
        None,
        title,
        " ".join((told, *(words.sentence(reason) for reason in report.verdict.reasons))),
        decision.advice,
    )


def _undecided(report: AuditReport) -> bool:
    return report.status is not Status.SUCCESS or report.verdict.decision is Decision.INCONCLUSIVE


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()
