"""Decisions and exit codes: which decision fails a gate, and which code wins where several apply."""

from __future__ import annotations

from auditor.errors import (
    EXIT_AUDIT_ERROR,
    EXIT_FINDINGS,
    EXIT_INCONCLUSIVE,
    EXIT_NOTHING_AUDITABLE,
    EXIT_PASS,
    EXIT_USAGE,
)

__all__ = ["DECISIONS", "FAIL_ON", "TABLE", "exit_of"]

DECISIONS = ("accept", "accept_with_conditions", "inconclusive", "review", "quarantine", "reject")
"""From best to worst, as :class:`reports.model.Decision` has them."""

FAIL_ON = ("accept_with_conditions", "inconclusive", "review", "quarantine", "reject")
"""What ``--fail-on`` takes: the mildest decision that ends with exit code 1."""

TABLE: dict[int, str] = {
    EXIT_PASS: "pass: nothing at or worse than --fail-on",
    EXIT_FINDINGS: "the decision is at or worse than --fail-on (default: review)",
    EXIT_AUDIT_ERROR: "the audit itself failed: a broken file, a missing base, a full disk",
    EXIT_INCONCLUSIVE: "inconclusive: coverage incomplete, nothing evaluated, or the budget spent",
    EXIT_NOTHING_AUDITABLE: "nothing auditable: an unsupported kind, which is named",
    EXIT_USAGE: "usage: an option, a name, a path or a policy is wrong",
}

def exit_of(decision: str, fail_on: str, status: str = "success") -> int:
    """The exit code of one report.

    Args:
        decision: of :data:`DECISIONS`.
        fail_on: of :data:`FAIL_ON`.
        status: of the audit; anything but ``success`` is an audit error.
    """
    if status != "success":
        return EXIT_AUDIT_ERROR
    if DECISIONS.index(decision) >= DECISIONS.index(fail_on):
        return EXIT_FINDINGS
    return EXIT_INCONCLUSIVE if decision == "inconclusive" else EXIT_PASS
