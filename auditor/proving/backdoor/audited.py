"""One subject audited as a user would, and what the audit said of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from auditor.artifact.together import identify_parts
from auditor.banks import BankData, bank_for
from auditor.engine import audit
from auditor.pipeline.components import Components
from auditor.pipeline.subject import Subject
from auditor.policy import load_policy
from auditor.registry import PROBES
from reports.model import Outcome, Result

__all__ = ["Audited", "Said", "audited"]

JUDGED = ("backdoor", "behaviour")
"""Families of probes whose answer has an error rate."""


@dataclass(frozen=True)
class Said:
    """What one probe said.

    Attributes:
        outcome: of the result, after the engine's corrections.
        value: the statistic; None where nothing was measured.
        p_value: against the bank; None without one, or outside what it covers.
        rest: the score less what recipes account for, in usual deviations: comparable over probes.
        named: the word or the pair of parts that the probe points at; empty where it points at none.
        seconds: of work.
        calls: denoiser evaluations.
    """

    outcome: str
    value: float | None
    p_value: float | None
    rest: float | None
    named: str
    seconds: float
    calls: int


@dataclass(frozen=True)
class Audited:
    """An audit of one arm.

    Attributes:
        decision: of the policy.
        coverage: keys applied, and keys there are.
        said: probe id to what it said.
        titles: of the findings.
        covariates: see :func:`auditor.artifact.covariates.covariates_of`.
    """

    decision: str
    coverage: tuple[int, int]
    said: dict[str, Said]
    titles: tuple[str, ...]
    covariates: dict[str, float | str]

    @property
    def score(self) -> float | None:
        """The audit's one continuous score: the largest rest over the probes that a bank judges; None without any.

        Screens do not decide an audit, and are not part of it.
        """
        deciding = [each for probe, each in self.said.items() if not PROBES.get(probe).screen]
        found = [each.rest for each in deciding if each.rest is not None]
        return max(found, default=None)

    @property
    def seconds(self) -> float:
        """Of all probes."""
        return sum(each.seconds for each in self.said.values())

    @classmethod
    def read(cls, stored: dict[str, Any]) -> Audited:
        """From what ``dataclasses.asdict`` gave, through JSON."""
        said = {probe: Said(**each) for probe, each in stored["said"].items()}
        more = {"said": said, "coverage": tuple(stored["coverage"]), "titles": tuple(stored["titles"])}
        return cls(**(stored | more))


def audited(base: Components, paths: Sequence[Path]) -> Audited:
    """Audits parts under the default policy, or under that for several parts."""
    parts = [part for path in paths for part in identify_parts(path)]
    with Subject(base, parts) as subject:
        policy = load_policy("default" if len(parts) == 1 else "combination")
        report = audit(subject, policy=policy)
        covariates = subject.covariates
        return Audited(
            decision=report.verdict.decision.value,
            coverage=(subject.coverage.keys_applied, subject.coverage.keys_total),
            said={
                result.probe: _said(base, result, covariates)
                for result in report.results
                if PROBES.get(result.probe).family in JUDGED
            },
            titles=tuple(finding.title for finding in report.findings),
            covariates=covariates,
        )


def _said(base: Components, result: Result, covariates: dict[str, float | str]) -> Said:
    bank = _bank(base, result)
    rest = None
    if bank is not None and result.value is not None and result.p_value is not None:
        rest = bank.judged(result.value, covariates)
    return Said(
        outcome=result.outcome.value,
        value=result.value,
        p_value=result.p_value,
        rest=rest,
        named=_named(result),
        seconds=result.cost.seconds,
        calls=result.cost.denoiser_calls,
    )


def _bank(base: Components, result: Result) -> BankData | None:
    probe = PROBES.get(result.probe)
    return bank_for(probe, base.sha256, probe.params()) if probe.bank else None


def _named(result: Result) -> str:
    if result.outcome is not Outcome.FAIL:
        return ""
    if top := result.details.get("top"):
        return str(top[0]["text"])
    if pairs := result.details.get("pairs"):
        worst = max(pairs, key=lambda row: float(row["score"]))
        return " + ".join(worst["names"]) + (f" with '{worst['word']}'" if worst["word"] else "")
    return ""
