"""From a report to what it contributes to the controls of a framework. Pure, and derived when a report is written.

A mapping is a YAML file of ``reports/mappings`` and pinned to one edition of its framework. Being ``met`` means
that there is evidence for a control, never that anything or anybody complies with it: the default is
``not_assessed``, and whatever was inconclusive, failed to run, was skipped, had no bank or too small an n is no
evidence.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from reports.model import AuditReport, Control, Outcome, Result, Status

__all__ = ["Mapping", "MappingError", "Row", "apply_mappings", "load_mapping", "shipped_mappings"]

FOLDER = Path(__file__).parent / "mappings"
RAN = (Outcome.PASS, Outcome.FAIL)
UNREAD_KINDS = frozenset({"unsupported", "refused", "broken"})
ControlStatus = Literal["met", "not_met", "partial", "not_assessed", "not_applicable"]
Text = Annotated[str, Field(min_length=1, max_length=1000)]


class MappingError(ValueError):
    """There is no such mapping, or its file is not one."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Row(_Model):
    """One control and what counts as evidence for it.

    Attributes:
        id: as the framework's edition has it.
        title: what it asks, in our own words.
        requires: ids or patterns of probes, all of which have to have run; empty if no probe can answer.
        min_n: smallest n of a result, by the pattern of ``requires`` that it answers; 1 where none is given.
        coverage: ``full`` if the evidence takes the proof that the whole artifact arrived in the model.
        evidence_rule: ``passed`` if every required probe has to pass; ``measured`` if the control asks for a
            measurement, whichever way it comes out.
        kinds: kinds of artifact that the control has a meaning for; all if empty.
        limits: what the control asks beyond what is measured here.
    """

    id: Text
    title: Text
    requires: tuple[Text, ...] = ()
    min_n: dict[Text, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    coverage: Literal["full", "any"] = "full"
    evidence_rule: Literal["passed", "measured"] = "passed"
    kinds: tuple[Text, ...] = ()
    limits: Text

    @model_validator(mode="after")
    def _counts_are_of_required_probes(self) -> Row:
        stray = sorted(set(self.min_n) - set(self.requires))
        if stray:
            raise ValueError(f"min_n names {stray[0]}, which is not required")
        return self


class Mapping(_Model):
    """A framework's controls in one edition.

    Attributes:
        scheme: the framework.
        edition: which text of it.
        about: one sentence on what it is.
        source: where the text is published.
        checked: how ids and editions were checked, and what was not.
        controls: in the framework's order.
    """

    scheme: Text
    edition: Text
    about: Text
    source: Text
    checked: Text
    controls: tuple[Row, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _each_control_once(self) -> Mapping:
        ids = [row.id for row in self.controls]
        if len(set(ids)) < len(ids):
            raise ValueError("a control stands twice")
        return self


def shipped_mappings() -> tuple[str, ...]:
    """Names with their editions, such as ``nist-ai-600-1@2024-07``, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*@*.yaml")))


@cache
def load_mapping(name: str) -> Mapping:
    """A shipped mapping by name and edition.

    Raises:
        MappingError: there is none of that name and edition, or its file is damaged.
    """
    if name not in shipped_mappings():
        raise MappingError("there is no such mapping")
    try:
        body = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
        return Mapping.model_validate(body)
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise MappingError(f"the mapping {name} is damaged: install this package again") from error


def apply_mappings(
    report: AuditReport, names: Iterable[str], *, installed: Collection[str] = ()
) -> AuditReport:
    """The report with the controls of some mappings; its own controls of the same ids are replaced.

    Args:
        report: as it was stored; it is not changed.
        names: of :func:`shipped_mappings`.
        installed: ids of all installed probes, to tell a probe that was not part of the audit from one that
            does not exist yet.

    Raises:
        MappingError: as :func:`load_mapping`.
    """
    controls = {(each.scheme, each.edition, each.id): each for each in report.controls}
    for name in names:
        mapping = load_mapping(name)
        for row in mapping.controls:
            control = assess(report, mapping, row, installed)
            controls[control.scheme, control.edition, control.id] = control
    return report.model_copy(update={"controls": tuple(controls.values())})


def assess(report: AuditReport, mapping: Mapping, row: Row, installed: Collection[str] = ()) -> Control:
    """What one report contributes to one control."""
    answers = [_answer(report, row, pattern, installed) for pattern in row.requires]
    status, reason = _judge(report, row, answers)
    evidence = dict.fromkeys(probe for answer in answers for probe in answer.evidence)
    return Control(
        scheme=mapping.scheme,
        edition=mapping.edition,
        id=row.id,
        title=row.title,
        requires=row.requires,
        status=status,
        evidence=() if status == "not_applicable" else tuple(evidence),
        reason=reason,
        limits=row.limits,
    )


@dataclass(frozen=True)
class _Answer:
    """What the audit has to say to one required probe or pattern.

    Attributes:
        evidence: probes with a calibrated result of enough n.
        failed: those of them that failed.
        missing: why the answer is not complete, one clause each; empty if it is.
    """

    evidence: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


def _answer(report: AuditReport, row: Row, pattern: str, installed: Collection[str]) -> _Answer:
    results = [result for result in report.results if fnmatchcase(result.probe, pattern)]
    answered = {result.probe for result in results}
    silent = [
        probe.id
        for probe in report.plan.probes
        if fnmatchcase(probe.id, pattern) and probe.id not in answered
    ]
    missing = [f"{probe} ended without a result" for probe in silent]
    if not results and not silent:
        exists = not installed or any(fnmatchcase(probe, pattern) for probe in installed)
        missing.append(
            f"{pattern} was not part of this audit" if exists else f"this release has no probe {pattern}"
        )
    weak = [(result, _weakness(result, row.min_n.get(pattern, 1))) for result in results]
    missing += [f"{result.probe} {weakness}" for result, weakness in weak if weakness]
    lacking = {result.probe for result, weakness in weak if weakness}
    sound = [result for result, weakness in weak if not weakness]
    return _Answer(
        evidence=tuple(dict.fromkeys(r.probe for r in sound if r.probe not in lacking)),
        failed=tuple(dict.fromkeys(r.probe for r in sound if r.outcome is Outcome.FAIL)),
        missing=tuple(dict.fromkeys(missing)),
    )


def _weakness(result: Result, min_n: int) -> str:
    """Why a result is no evidence; nothing if it is."""
    if result.outcome not in RAN:
        told = {
            Outcome.INCONCLUSIVE: "was inconclusive",
            Outcome.ERROR: "failed to run",
            Outcome.SKIPPED: "was skipped",
        }
        return told[result.outcome]
    if not result.calibrated:
        return "was measured without a bank of clean adapters"
    if result.n < min_n:
        return f"measured n = {result.n:,} where {min_n:,} are needed"
    return ""


def _judge(report: AuditReport, row: Row, answers: Sequence[_Answer]) -> tuple[ControlStatus, str]:
    kinds = {artifact.kind for artifact in report.subject.artifacts}
    if row.kinds and kinds and not kinds & {*row.kinds, *UNREAD_KINDS}:
        return "not_applicable", f"It has no meaning for what was audited: {_listed(sorted(kinds))}."
    if not row.requires:
        return "not_assessed", "No measurement on a model can answer it."
    ran = _listed(dict.fromkeys(probe for answer in answers for probe in answer.evidence))
    failed = list(dict.fromkeys(probe for answer in answers for probe in answer.failed))
    missing = [clause for answer in answers for clause in answer.missing]
    if failed and row.evidence_rule == "passed":
        return "not_met", f"Evidence against it: {_listed(failed)} failed."
    if report.status is not Status.SUCCESS:
        missing.append("the audit did not run to its end")
    coverage = report.subject.coverage
    if row.coverage == "full" and not (coverage and coverage.full):
        missing.append("nothing proves that the whole artifact arrived in a model")
    if not ran:
        return "not_assessed", f"Nothing that counts as evidence: {_listed(missing, '; ')}."
    if missing:
        return "partial", f"Evidence from {ran} alone: {_listed(missing, '; ')}."
    if row.evidence_rule == "passed":
        return "met", f"Evidence for it: {ran} ran with full n and passed."
    against = f"; {_listed(failed)} failed, which is a finding about the artifact" if failed else ""
    return "met", f"Evidence for it: {ran} measured it{against}."


def _listed(items: Iterable[str], joint: str = ", ") -> str:
    """The first of some clauses; reasons are one sentence, and the report has the rest."""
    every = list(items)
    shown = joint.join(every[:4])
    return f"{shown}{joint}and {len(every) - 4} more" if len(every) > 4 else shown
