"""The exit code of a report."""

from __future__ import annotations

from auditor.errors import (
    EXIT_AUDIT_ERROR,
    EXIT_FINDINGS,
    EXIT_INCONCLUSIVE,
    EXIT_NOTHING_AUDITABLE,
    EXIT_PASS,
    combine_exit_codes,
)
from auditor.policy.ladder import rank
from reports.model import AuditReport, Decision, Status

__all__ = ["combine_exit_codes", "exit_code"]

UNSUPPORTED = "unsupported"


def exit_code(report: AuditReport, fail_on: Decision = Decision.REVIEW) -> int:
    """0 pass, 1 at or worse than ``fail_on``, 2 audit error, 3 inconclusive, 4 nothing auditable.

    Where several apply, 2 > 1 > 3 > 4 > 0. An audit that left open what its policy asks for is inconclusive
    also where its decision is a graver one that ``fail_on`` lets pass.

    Args:
        report: a finished report.
        fail_on: the mildest decision that ends with 1.
    """
    codes = [EXIT_PASS]
    if report.status is not Status.SUCCESS:
        codes.append(EXIT_AUDIT_ERROR)
    if rank(report.verdict.decision) >= rank(fail_on):
        codes.append(EXIT_FINDINGS)
    if _left_open(report):
        kinds = {artifact.kind for artifact in report.subject.artifacts}
        codes.append(EXIT_NOTHING_AUDITABLE if kinds <= {UNSUPPORTED} else EXIT_INCONCLUSIVE)
    return combine_exit_codes(codes)


def _left_open(report: AuditReport) -> bool:
    open_reason = f"{Decision.INCONCLUSIVE.value}: "
    return report.verdict.decision is Decision.INCONCLUSIVE or any(
        reason.startswith(open_reason) for reason in report.verdict.reasons
    )
