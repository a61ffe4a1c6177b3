"""What a policy file may say: every key with its type, its default and one sentence about it.

The descriptions here are the only ones: the published JSON Schema and ``auditor explain policy`` show them.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from auditor.policy.ladder import rank
from reports.model import Decision, Number, Severity

__all__ = ["Gates", "Rules", "WaiverRule"]

NonEmpty = Annotated[str, Field(min_length=1, max_length=200)]
Sentence = Annotated[str, Field(min_length=1, max_length=1000)]
Weight = Annotated[Number, Field(ge=0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Concern = Literal[Decision.REVIEW, Decision.QUARANTINE, Decision.REJECT]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Gates(_Model):
    """The decision that a finding of each severity leads to; a graver finding never to a milder one."""

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
        ranks = [rank(self.of(severity)) for severity in Severity]
        if ranks != sorted(ranks):
            raise ValueError("a graver finding must not lead to a milder decision")
        if ranks[-1] < rank(Decision.REVIEW):
            raise ValueError("a critical finding must lead to review, quarantine or reject")
        return self


class WaiverRule(_Model):
    """Somebody's decision to live with a finding for a while: who, why and until when are never optional."""

    rule: NonEmpty = Field(description="Id of the finding's rule, or a pattern such as PMA-FILE-*.")
    owner: NonEmpty = Field(description="Who answers for it.")
    reason: Sentence = Field(description="Why it may be lived with.")
    expires: date = Field(description="The last day on which it holds, as YYYY-MM-DD in UTC.")
    fingerprint: NonEmpty | None = Field(
        default=None,
        description="Only the finding with this fingerprint; any finding of the rule if left out.",
    )
    artifact: Sha256 | None = Field(
        default=None, description="Only where the artifact with this SHA-256 is audited; any if left out."
    )

    @field_validator("expires", mode="before")
    @classmethod
    def _a_day(cls, value: object) -> object:
        # Pydantic would also take a number of seconds or a point in time for a day.
        if isinstance(value, str) and len(value) == len("YYYY-MM-DD"):
            return value
        if type(value) is date:
            return value
        raise ValueError("a waiver expires on a day, written as YYYY-MM-DD")


class Rules(_Model):
    """A policy's rules; frozen."""

    name: NonEmpty = Field(description="What reports call the policy.")
    description: str = Field(default="", max_length=2000, description="One sentence: whom it serves.")
    alpha: Number = Field(
        default=0.05, gt=0, lt=1, description="Level of the audit as a whole, spent over probe families."
    )
    split: dict[NonEmpty, Weight] = Field(
        default_factory=dict,
        description="Weight of each family in spending alpha; 'other' is for families not named; with 0 none "
        "of the family's probes is judged by a p-value.",
    )
    probes: tuple[NonEmpty, ...] = Field(
        default=("*",),
        description="Ids or patterns that run when the user names none; required ones are added.",
    )
    required: tuple[NonEmpty, ...] = Field(
        min_length=1, description="Ids or patterns that must be evaluated, at least one probe of each."
    )
    coverage: Literal["full", "not_asked"] = Field(
        default="full",
        description="'full' if an accept takes the proof that the whole adapter arrived in the base; "
        "'not_asked' if the policy is about files only.",
    )
    gates: Gates = Field(default=Gates(), description="Decision by severity of a finding.")
    failed_result: Concern = Field(
        default=Decision.REVIEW, description="Decision for a probe that fails, whatever findings it gives."
    )
    uncalibrated_at_most: Concern = Field(
        default=Decision.REVIEW,
        description="The gravest decision that evidence without a bank of clean adapters may lead to.",
    )
    low_confidence_at_most: Concern = Field(
        default=Decision.REVIEW,
        description="The gravest decision that a finding of low confidence may lead to.",
    )
    optional_not_evaluated: Literal[
        Decision.ACCEPT, Decision.ACCEPT_WITH_CONDITIONS, Decision.INCONCLUSIVE
    ] = Field(
        default=Decision.ACCEPT,
        description="Decision where a probe that is not required was planned and not evaluated.",
    )
    settle: Concern | None = Field(
        default=None,
        description="Once earlier stages lead to this decision or a graver one, dearer stages are skipped.",
    )
    conditions: tuple[NonEmpty, ...] = Field(
        default=(), description="What accept_with_conditions asks of whoever uses the artifact."
    )
    waivable_up_to: Severity | None = Field(
        default=Severity.HIGH,
        description="The gravest severity of a finding that a waiver may set aside; null if none may be.",
    )
    waivers: tuple[WaiverRule, ...] = Field(
        default=(), description="Findings that somebody has decided to live with for a while."
    )
