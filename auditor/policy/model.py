"""A policy: what has to be tested, at which level, and which evidence leads to which decision."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from auditor.policy.decide import DECISIONS, decide, settles, status
from reports.model import Coverage, Decision, Finding, Number, Result, Severity, Status, Verdict

__all__ = ["Gates", "Policy"]

NonEmpty = Annotated[str, Field(min_length=1, max_length=200)]
Weight = Annotated[Number, Field(ge=0)]
Concern = Literal[Decision.REVIEW, Decision.QUARANTINE, Decision.REJECT]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Gates(_Model):
    """The decision that a finding of each severity leads to."""

    info: Decision = Decision.ACCEPT
    low: Decision = Decision.ACCEPT_WITH_CONDITIONS
    medium: Decision = Decision.REVIEW
    high: Decision = Decision.QUARANTINE
    critical: Decision = Decision.REJECT

    def of(self, severity: Severity) -> Decision:
        """For one severity."""
        decision = getattr(self, severity.value)
        assert isinstance(decision, Decision)
        return decision

    @model_validator(mode="after")
    def _ordered(self) -> Gates:
        ranks = [DECISIONS.index(self.of(severity)) for severity in Severity]
        if ranks != sorted(ranks):
            raise ValueError("a graver finding must not lead to a milder decision")
        if ranks[-1] < DECISIONS.index(Decision.REVIEW):
            raise ValueError("a critical finding must lead to review, quarantine or reject")
        return self


class Policy(_Model):
    """A policy; frozen, and part of every report's plan.

    Attributes:
        name: for people.
        description: one sentence.
        alpha: level of the audit as a whole, spent over probe families.
        split: weight of each family; ``other`` is for families not named; 0 means that none of the family's
            probes is judged by a p-value.
        probes: ids or patterns that are run when the user names none; required ones are added.
        required: ids or patterns that must be evaluated, at least one each.
        coverage: ``full`` if an accept takes the proof that the whole adapter arrived in the base;
            ``not_asked`` if the policy is about files only.
        gates: decision by severity of a finding.
        failed_result: decision for a probe that fails, whatever findings it gives.
        uncalibrated_at_most: the gravest decision that evidence without a bank may lead to.
        low_confidence_at_most: the gravest decision that a finding of low confidence may lead to.
        optional_not_evaluated: decision where a probe that is not required was planned and not evaluated.
        settle: once earlier stages lead to this decision or a graver one, dearer stages are skipped.
        conditions: what ``accept_with_conditions`` asks of whoever uses the artifact.
    """

    name: NonEmpty
    description: str = Field(default="", max_length=2000)
    alpha: Number = Field(default=0.05, gt=0, lt=1)
    split: dict[NonEmpty, Weight] = Field(default_factory=dict)
    probes: tuple[NonEmpty, ...] = ("*",)
    required: tuple[NonEmpty, ...] = Field(min_length=1)
    coverage: Literal["full", "not_asked"] = "full"
    gates: Gates = Gates()
    failed_result: Concern = Decision.REVIEW
    uncalibrated_at_most: Concern = Decision.REVIEW
    low_confidence_at_most: Concern = Decision.REVIEW
    optional_not_evaluated: Literal[
        Decision.ACCEPT, Decision.ACCEPT_WITH_CONDITIONS, Decision.INCONCLUSIVE
    ] = Decision.ACCEPT
    settle: Concern | None = None
    conditions: tuple[NonEmpty, ...] = ()

    @cached_property
    def document(self) -> str:
        """Canonical JSON of the whole policy."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    @property
    def sha256(self) -> str:
        """SHA-256 of :attr:`document`, in hex."""
        return hashlib.sha256(self.document.encode()).hexdigest()

    def decide(
        self,
        *,
        results: Sequence[Result],
        findings: Sequence[Finding],
        coverage: Coverage | None,
        planned: Sequence[str],
    ) -> Verdict:
        """See :func:`auditor.policy.decide`."""
        return decide(self, results=results, findings=findings, coverage=coverage, planned=planned)

    def status(self, results: Sequence[Result]) -> Status:
        """See :func:`auditor.policy.status`."""
        return status(self, results)

    def settles(self, results: Sequence[Result], findings: Sequence[Finding]) -> Decision | None:
        """The decision that earlier stages already lead to, if the policy then skips the dearer ones."""
        return settles(self, results, findings)
