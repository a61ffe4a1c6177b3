"""Results and findings for tests of policies."""

from __future__ import annotations

from hypothesis import strategies as st

from reports.model import (
    Artifact,
    AuditReport,
    Coverage,
    Decision,
    Finding,
    Outcome,
    Plan,
    Result,
    Severity,
    Status,
    Subject,
    Tool,
    Verdict,
)

FULL = Coverage(keys_total=2, keys_applied=2, output_differs=True)
NONE_APPLIED = Coverage(keys_total=2, keys_applied=0, output_differs=False)
PROBES = ("static.file_safety", "backdoor.vocabulary_shift", "behaviour.drift", "x.optional")


def result(probe: str, outcome: Outcome = Outcome.PASS, calibrated: bool = True, reason: str = "") -> Result:
    return Result(probe=probe, version=1, outcome=outcome, calibrated=calibrated, reason=reason)


def finding(
    severity: Severity = Severity.HIGH, calibrated: bool = True, confidence: str = "high", title: str = "t"
):
    return Finding(
        rule_id="R", fingerprint="f", severity=severity, confidence=confidence, title=title, why="w",
        remediation="r", calibrated=calibrated,
    )  # fmt: skip


def report(decision: Decision, *, status=Status.SUCCESS, reasons=(), kind="adapter") -> AuditReport:
    artifact = Artifact(path="p", sha256="a" * 64, size=1, kind=kind)
    return AuditReport(
        id="i", created="c", status=status, tool=Tool(version="1"), subject=Subject(artifacts=(artifact,)),
        plan=Plan(policy="p", alpha=0.05, seed=0, probes=()), results=(), findings=(),
        verdict=Verdict(decision=decision, reasons=tuple(reasons)),
    )  # fmt: skip


results = st.builds(result, st.sampled_from(PROBES), st.sampled_from(Outcome), st.booleans())
findings = st.builds(
    finding, st.sampled_from(Severity), st.booleans(), st.sampled_from(["low", "medium", "high"])
)
coverages = st.sampled_from([FULL, NONE_APPLIED, None])
