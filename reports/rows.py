"""Results as a flat table, one row each: what CSV and Parquet have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from reports import words
from reports.by_probe import result_of
from reports.model import AuditReport, Result, Severity
from reports.paths import public_ref
from reports.text import inert

__all__ = ["COLUMNS", "Cell", "Column", "rows"]

Cell = str | int | float | bool | None

_TEXT = 1000
_SEVERITIES = list(Severity)


@dataclass(frozen=True)
class Column:
    """A column: its name, the type of its cells, and how a cell is read from report and result."""

    name: str
    kind: Literal["text", "integer", "number", "truth"]
    cell: Callable[[AuditReport, Result], Cell]


COLUMNS: tuple[Column, ...] = (
    Column("report", "text", lambda report, _: report.id),
    Column("created", "text", lambda report, _: report.created),
    Column("tool_version", "text", lambda report, _: report.tool.version),
    Column("policy", "text", lambda report, _: report.plan.policy),
    Column("decision", "text", lambda report, _: report.verdict.decision.value),
    Column("subject", "text", lambda report, _: words.subject_name(report)),
    Column("subject_sha256", "text", lambda report, _: " ".join(a.sha256 for a in report.subject.artifacts)),
    Column(
        "tensor_hash", "text", lambda report, _: " ".join(a.tensor_hash for a in report.subject.artifacts)
    ),
    Column("base", "text", lambda report, _: _base(report, "ref")),
    Column("base_sha256", "text", lambda report, _: _base(report, "sha256")),
    Column("probe", "text", lambda _, result: result.probe),
    Column("probe_version", "integer", lambda _, result: result.version),
    Column("outcome", "text", lambda _, result: result.outcome.value),
    Column("calibrated", "truth", lambda _, result: result.calibrated),
    Column("reason", "text", lambda _, result: result.reason),
    Column("null", "text", lambda _, result: result.null),
    Column("statistic", "text", lambda _, result: result.statistic),
    Column("value", "number", lambda _, result: result.value),
    Column("unit", "text", lambda _, result: result.unit),
    Column("effect", "number", lambda _, result: result.effect),
    Column("p_value", "number", lambda _, result: result.p_value),
    Column("adjusted_p", "number", lambda _, result: result.adjusted_p),
    Column("ci_low", "number", lambda _, result: result.ci.low if result.ci else None),
    Column("ci_high", "number", lambda _, result: result.ci.high if result.ci else None),
    Column("ci_level", "number", lambda _, result: result.ci.level if result.ci else None),
    Column("ci_method", "text", lambda _, result: result.ci.method if result.ci else None),
    Column("n", "integer", lambda _, result: result.n),
    Column("min_detectable_effect", "number", lambda _, result: result.min_detectable_effect),
    Column("bank", "text", lambda _, result: result.bank.id if result.bank else None),
    Column("bank_n", "integer", lambda _, result: result.bank.n if result.bank else None),
    Column(
        "bank_realised_fpr", "number", lambda _, result: result.bank.realised_fpr if result.bank else None
    ),
    Column("findings", "integer", lambda report, result: len(_severities(report, result))),
    Column("worst_finding", "text", lambda report, result: _worst(report, result)),
    Column("seconds", "number", lambda _, result: result.cost.seconds),
    Column("denoiser_calls", "integer", lambda _, result: result.cost.denoiser_calls),
)


def rows(report: AuditReport) -> list[list[Cell]]:
    """One row a result, in the order of the report; text is inert, what does not exist is None."""
    return [[_plain(column.cell(report, result)) for column in COLUMNS] for result in report.results]


def _base(report: AuditReport, field: Literal["ref", "sha256"]) -> str | None:
    base = report.subject.base
    if base is None:
        return None
    return public_ref(base.ref) if field == "ref" else base.sha256


def _plain(cell: Cell) -> Cell:
    if not isinstance(cell, str):
        return cell
    return inert(" ".join(cell.split()), _TEXT) or None


def _severities(report: AuditReport, result: Result) -> list[Severity]:
    return [each.severity for each in report.findings if result_of(each, report) == result]


def _worst(report: AuditReport, result: Result) -> str | None:
    return max(_severities(report, result), key=_SEVERITIES.index, default=None)
