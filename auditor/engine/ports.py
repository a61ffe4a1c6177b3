"""What the engine asks of the world around it: a subject, a policy, a clock."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from auditor.contracts import Capability
from reports.model import Coverage, Decision, Finding, Limitation, Result, Status, Subject, Verdict

__all__ = ["SYSTEM_CLOCK", "AuditSubject", "Clock", "DecisionPolicy", "Waived"]


class AuditSubject(Protocol):
    """What is audited, as far as the engine needs to know it; probes are given the object as it is.

    A subject may also have ``unavailable: Mapping[Capability, str]``, one clause for each capability that it
    cannot offer, which then stands in the reason of every probe that is skipped for it; and ``denoiser_calls: int``,
    evaluations of one latent so far, which are then part of what each probe cost.
    """

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What probes may use of it."""
        ...

    def describe(self) -> Subject:
        """What was received and the proof of how much of it arrived; called once, before the first probe."""
        ...


@dataclass(frozen=True)
class Waived:
    """What a policy's waivers did to the findings of an audit.

    Attributes:
        findings: in the order given; those under an active waiver are marked with it.
        remarks: attempts to waive a finding that came to nothing, one sentence each.
        limitations: waivers that no finding matches.
    """

    findings: tuple[Finding, ...]
    remarks: tuple[str, ...] = ()
    limitations: tuple[Limitation, ...] = ()


class DecisionPolicy(Protocol):
    """A policy as the engine sees it; ``auditor.policy.Policy`` is one."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    @property
    def sha256(self) -> str:
        """Of :attr:`document`."""
        ...

    @property
    def document(self) -> str:
        """The whole policy as canonical JSON, kept in the plan."""
        ...

    @property
    def alpha(self) -> float:
        """Level of the audit as a whole, in (0, 1)."""
        ...

    @property
    def split(self) -> Mapping[str, float]:
        """Weight of each probe family in spending alpha; ``other`` is for families that are not named."""
        ...

    @property
    def probes(self) -> tuple[str, ...]:
        """Names or patterns of the probes that are run when the user names none."""
        ...

    @property
    def required(self) -> tuple[str, ...]:
        """Names or patterns of probes without which the policy accepts nothing."""
        ...

    def waive(self, findings: Sequence[Finding], *, artifacts: Sequence[str], created: str) -> Waived:
        """The findings with the policy's waivers, by the day on which the audit began."""
        ...

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
        """The decision and its reasons; ``sources`` are the probes that gave the findings, in their order."""
        ...

    def status(self, results: Sequence[Result]) -> Status:
        """Whether the audit itself worked, as far as the policy asks for it."""
        ...

    def settles(
        self, results: Sequence[Result], findings: Sequence[Finding], sources: Sequence[str] = ()
    ) -> Decision | None:
        """The decision that makes dearer stages pointless, once it is reached."""
        ...


class Clock(Protocol):
    """Time, injected so that nothing else in the engine reads it."""

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""
        ...

    def now(self) -> str:
        """Date and time in UTC, ISO 8601 to the second."""
        ...


class _SystemClock:
    def monotonic(self) -> float:
        return time.monotonic()

    def now(self) -> str:
        return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


SYSTEM_CLOCK: Clock = _SystemClock()
