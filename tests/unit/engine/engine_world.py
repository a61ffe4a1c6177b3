"""A subject, a clock and probes for tests of the engine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from auditor.contracts import Capability, Probe, Stage
from auditor.policy import Policy
from auditor.registry import Registry
from reports.model import Artifact, Base, Coverage, Finding, Outcome, Result, Severity, Subject, Tool

TOOL = Tool(version="1.2.3")
FULL = Coverage(keys_total=4, keys_applied=4, delta_norm=1.0, output_differs=True)
NONE_APPLIED = Coverage(keys_total=8, keys_applied=0, output_differs=False)


@dataclass
class FakeSubject:
    capabilities: frozenset[Capability] = frozenset(Capability)
    coverage: Coverage | None = FULL
    sha256: str = "a" * 64
    kind: str = "adapter"
    unavailable: dict[Capability, str] = field(default_factory=dict)

    def describe(self) -> Subject:
        artifact = Artifact(path="x.safetensors", sha256=self.sha256, size=3, kind=self.kind)
        return Subject(artifacts=(artifact,), base=Base(ref="fake", sha256="b" * 64), coverage=self.coverage)


class StepClock:
    """Moves on by ``step`` seconds each time it is read."""

    def __init__(self, step: float = 0.5) -> None:
        self.time, self.step = 0.0, step

    def monotonic(self) -> float:
        self.time += self.step
        return self.time

    def now(self) -> str:
        return "2026-01-01T00:00:00Z"


class HandClock(StepClock):
    """Moves only when it is told to."""

    def __init__(self) -> None:
        super().__init__(0.0)

    def sleep(self, seconds: float) -> None:
        self.time += seconds


def make_probe(id, function, *, needs=(Capability.FILE,), stage=Stage.FILE, **rest):
    return Probe(
        id=id, version=1, goal="g", null="n", needs=frozenset(needs), stage=stage, function=function, **rest
    )


def registry(*probes: Probe) -> Registry[Probe]:
    known: Registry[Probe] = Registry("probe")
    known._loaded = True
    for probe in probes:
        known.add(probe.id, probe)
    return known


def result(probe="t.a", outcome=Outcome.PASS, **rest) -> Result:
    return Result(probe=probe, version=1, outcome=outcome, **rest)


def finding(severity=Severity.HIGH, rule_id="R1", **rest) -> Finding:
    words = {"title": "t", "why": "w", "remediation": "r", "confidence": "high", "fingerprint": rule_id}
    return Finding(rule_id=rule_id, severity=severity, **{**words, **rest})


def gives(*items: object):
    """A probe function that yields ``items``."""

    def function(subject, params, run) -> Iterable[object]:
        yield from items

    return function


def policy(required: Sequence[str] = ("*",), **rest) -> Policy:
    return Policy(name="test", required=tuple(required), **rest)
