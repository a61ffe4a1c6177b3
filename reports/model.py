"""The audit report: typed, versioned, the product's spine.

Everything a writer shows is in here or in the evidence store beside it; nothing in here was computed by a
writer. A *result* is a measurement, a *finding* is something a person should act on, and the *verdict* is
what a policy made of both. Text that came from an artifact stays raw in these models and is made inert by
whoever shows it.
"""

from __future__ import annotations

import json
import math
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

__all__ = [
    "SCHEMA_VERSION",
    "Artifact",
    "AuditReport",
    "Bank",
    "Base",
    "Claim",
    "Control",
    "Cost",
    "Coverage",
    "Decision",
    "Evidence",
    "Finding",
    "Interval",
    "Limitation",
    "Outcome",
    "Plan",
    "PlannedProbe",
    "READABLE_VERSIONS",
    "Reference",
    "Result",
    "Severity",
    "Status",
    "Subject",
    "Tool",
    "Verdict",
    "Waiver",
]

SCHEMA_VERSION: Final = "1.1"
READABLE_VERSIONS: Final = ("1.0", "1.1")
"""Reports of these versions can be read; 1.1 added waivers, and titles and reasons of controls."""


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("must be finite; leave it out where there is no value")
    return value


def _json_only(value: dict[str, Any]) -> dict[str, Any]:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"must be plain JSON, without NaN or infinity ({error})") from error
    return value


Number = Annotated[float, AfterValidator(_finite)]
JsonObject = Annotated[dict[str, Any], AfterValidator(_json_only)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Outcome(StrEnum):
    """How a probe ended. Only ``pass`` is a pass; ``error`` and ``skipped`` count as not evaluated."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    ERROR = "error"
    SKIPPED = "skipped"


class Severity(StrEnum):
    """How bad it is if it is true."""

    INFO = "info"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


class Decision(StrEnum):
    """What the policy says to do, from best to worst."""

    ACCEPT = "accept"
    ACCEPT_WITH_CONDITIONS = "accept_with_conditions"
    INCONCLUSIVE = "inconclusive"
    REVIEW = "review"
    QUARANTINE = "quarantine"
    REJECT = "reject"


class Status(StrEnum):
    """Whether the audit itself ran to its end."""

    SUCCESS = "success"
    ERROR = "error"
    CANCELLED = "cancelled"


class Interval(_Model):
    """A confidence interval; ``level`` in (0, 1)."""

    method: str
    level: Number
    low: Number
    high: Number


class Evidence(_Model):
    """One file of the evidence store: ``sha256`` of its bytes, and what it shows."""

    name: str
    sha256: str
    media_type: str
    caption: str = ""
    sensitive: bool = False


class Cost(_Model):
    """What a result took. Not part of a run's identity."""

    seconds: Number = 0.0
    denoiser_calls: int = 0


class Bank(_Model):
    """The clean adapters a p-value was computed against."""

    id: str
    sha256: str
    n: int
    realised_fpr: Number | None = None
    realised_fpr_ci: Interval | None = None


class Result(_Model):
    """A measurement by one probe: hypothesis, statistic, size, certainty."""

    probe: str
    version: int
    outcome: Outcome
    reason: str = ""
    calibrated: bool = False
    null: str = ""
    statistic: str = ""
    value: Number | None = None
    effect: Number | None = None
    p_value: Number | None = None
    adjusted_p: Number | None = None
    ci: Interval | None = None
    n: int = 0
    unit: str = ""
    min_detectable_effect: Number | None = None
    bank: Bank | None = None
    details: JsonObject = Field(default_factory=dict)
    evidence: tuple[Evidence, ...] = ()
    cost: Cost = Cost()


class Reference(_Model):
    """An entry of a public taxonomy, always with its edition."""

    scheme: str
    edition: str
    id: str


class Waiver(_Model):
    """Somebody's decision to live with a finding for a while; ``expires`` is an ISO date, the last day it holds."""

    rule: str
    owner: str
    reason: str
    expires: str


class Finding(_Model):
    """Something to act on; ``fingerprint`` is the same for re-labelled copies of the same tensors.

    A finding under a ``waiver`` stays in the report and no longer decides.
    """

    rule_id: str
    fingerprint: str
    severity: Severity
    confidence: Literal["low", "medium", "high"]
    title: str
    why: str
    remediation: str
    calibrated: bool = True
    locations: tuple[str, ...] = ()
    refs: tuple[Reference, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    waiver: Waiver | None = None


class Claim(_Model):
    """What metadata says, beside what was measured. ``agrees`` is None where it cannot be checked."""

    name: str
    claimed: str
    measured: str = ""
    agrees: bool | None = None
    note: str = ""


class Artifact(_Model):
    """A file or folder as received."""

    path: str
    sha256: str
    size: int
    kind: str
    tensor_hash: str = ""
    dialect: str = ""
    family: str = ""
    family_evidence: tuple[str, ...] = ()
    rank: str = ""
    modules: int = 0
    dtype: str = ""
    notes: tuple[str, ...] = ()


class Base(_Model):
    """The model that the artifact is audited against."""

    ref: str
    revision: str = ""
    sha256: str
    family: str = ""


class Coverage(_Model):
    """Proof that what was audited is what was received: nothing applied means nothing was tested."""

    keys_total: int
    keys_applied: int
    unmatched: tuple[str, ...] = ()
    delta_norm: Number = 0.0
    module_norms: dict[str, Number] = Field(default_factory=dict)
    output_differs: bool | None = None
    note: str = ""

    @property
    def full(self) -> bool:
        """All keys arrived and the model answers differently from its base."""
        return self.keys_total > 0 and self.keys_applied == self.keys_total and self.output_differs is True


class Subject(_Model):
    """What was audited."""

    artifacts: tuple[Artifact, ...]
    base: Base | None = None
    claims: tuple[Claim, ...] = ()
    coverage: Coverage | None = None


class Tool(_Model):
    """What did the auditing."""

    name: str = "personalized-model-auditor"
    version: str
    packages: dict[str, str] = Field(default_factory=dict)
    device: str = "none"
    determinism: str = ""


class PlannedProbe(_Model):
    """One node of the plan."""

    id: str
    version: int
    params: JsonObject = Field(default_factory=dict)
    consumes: tuple[str, ...] = ()


class Plan(_Model):
    """Frozen before the first measurement."""

    policy: str
    policy_sha256: str = ""
    alpha: Number
    seed: int
    probes: tuple[PlannedProbe, ...]
    budget_seconds: Number | None = None
    banks: tuple[Bank, ...] = ()


class Verdict(_Model):
    """The policy's decision and why, strongest reason first."""

    decision: Decision
    reasons: tuple[str, ...]


class Control(_Model):
    """Evidence for one control of a framework; never a statement of compliance.

    ``requires`` names the probes that would have to run, ``evidence`` those that did, ``reason`` says why the
    status is what it is, and ``limits`` what the control asks beyond what can be measured here.
    """

    scheme: str
    edition: str
    id: str
    title: str = ""
    requires: tuple[str, ...] = ()
    status: Literal["met", "not_met", "partial", "not_assessed", "not_applicable"] = "not_assessed"
    evidence: tuple[str, ...] = ()
    reason: str = ""
    limits: str = ""


class Limitation(_Model):
    """What was not tested, or how small an effect would have been missed."""

    topic: str
    text: str


class AuditReport(_Model):
    """One audit of one subject."""

    schema_version: Literal["1.0", "1.1"] = SCHEMA_VERSION
    id: str
    created: str
    operator: str = ""
    status: Status
    tool: Tool
    subject: Subject
    plan: Plan
    results: tuple[Result, ...]
    findings: tuple[Finding, ...]
    verdict: Verdict
    controls: tuple[Control, ...] = ()
    limitations: tuple[Limitation, ...] = ()

    def canonical(self) -> str:
        """Canonical JSON without what may differ between identical runs: ``created``, cost and host."""
        body = self.model_dump(mode="json")
        del body["created"]
        body["tool"] = {key: body["tool"][key] for key in ("name", "version")}
        for result in body["results"]:
            del result["cost"]
        return json.dumps(body, sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
