"""A policy: its rules, its identity, and the verdicts that follow from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property

from auditor.engine.ports import Waived
from auditor.policy.decide import decide, settles, status
from auditor.policy.rules import Gates, Rules, WaiverRule
from auditor.policy.waivers import waive
from reports.model import Coverage, Decision, Finding, Result, Status, Verdict

__all__ = ["Gates", "Policy", "WaiverRule"]


class Policy(Rules):
    """A policy, which is frozen and part of every run's plan; its keys are those of :class:`Rules`."""

    @cached_property
    def document(self) -> str:
        """Canonical JSON of the whole policy, its waivers included."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    @property
    def sha256(self) -> str:
        """SHA-256 of :attr:`document`, in hex."""
        return hashlib.sha256(self.document.encode()).hexdigest()

    def with_waivers(self, waivers: Iterable[WaiverRule]) -> Policy:
        """The policy with further waivers; those that it has already are not added again."""
        merged = tuple(dict.fromkeys((*self.waivers, *waivers)))
        return Policy.model_validate({**self.model_dump(), "waivers": merged})

    def waive(self, findings: Sequence[Finding], *, artifacts: Sequence[str], created: str) -> Waived:
        """See :func:`auditor.policy.waivers.waive`."""
        return waive(self, findings, artifacts=artifacts, created=created)

    def decide(
        self,
        *,
        results: Sequence[Result],
        findings: Sequence[Finding],
        coverage: Coverage | None,
        planned: Sequence[str],
        sources: Sequence[str] = (),
        remarks: Sequence[str] = (),
    ) -> Verdict:
        """See :func:`auditor.policy.decide.decide`."""
        return decide(
            self,
            results=results,
            findings=findings,
            coverage=coverage,
            planned=planned,
            sources=sources,
            remarks=remarks,
        )

    def status(self, results: Sequence[Result]) -> Status:
        """See :func:`auditor.policy.decide.status`."""
        return status(self, results)

    def settles(
        self, results: Sequence[Result], findings: Sequence[Finding], sources: Sequence[str] = ()
    ) -> Decision | None:
        """The decision that earlier stages already lead to, if the policy then skips the dearer ones."""
        return settles(self, results, findings, sources)
