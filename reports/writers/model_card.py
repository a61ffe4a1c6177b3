"""The audit as a section of a model card, with figures that a hub reads from its front matter.

Front matter follows the ``model-index`` of Hugging Face model cards, as ``huggingface_hub.EvalResult`` reads
and writes it; everything in the section that came from an artifact is inert Markdown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import yaml

from reports import numbers, words
from reports.markup import code, prose, table
from reports.model import AuditReport, Finding, Outcome, Result
from reports.paths import last_part, public_ref
from reports.text import inert

__all__ = ["MEDIA_TYPE", "NAME", "SUFFIX", "model_index", "write"]

NAME = "card"
MEDIA_TYPE = "text/markdown"
SUFFIX = ".card.md"


def write(report: AuditReport, evidence: Callable[[str], bytes]) -> bytes:
    """Front matter with ``model-index`` where something was measured, then the section ``## Audit``.

    Args:
        report: the report.
        evidence: not used.

    Returns:
        UTF-8 Markdown, to be merged into the card of the model.
    """
    index = model_index(report)
    front = ["---", _yaml({"model-index": index}), "---", ""] if index else []
    lines = [
        *front,
        *_verdict(report),
        *_findings(report),
        *_results(report),
        *_gaps(report),
        *_facts(report),
    ]
    return ("\n".join(lines).rstrip() + "\n").encode("utf-8")


def model_index(report: AuditReport) -> list[dict[str, Any]]:
    """Measured results by the hub's schema; empty where nothing was measured, which the schema cannot say."""
    metrics = [_metric(result) for result in report.results if result.value is not None]
    if not metrics:
        return []
    base = report.subject.base
    against = public_ref(base.ref) if base else "no base: read as a file"
    result = {
        "task": {"type": "text-to-image"},
        "dataset": {"name": inert(f"audit against {against}"), "type": "audit"},
        "metrics": metrics,
    }
    return [{"name": inert(words.subject_name(report)), "results": [result]}]


def _metric(result: Result) -> dict[str, Any]:
    args: dict[str, Any] = {"outcome": result.outcome.value, "calibrated": result.calibrated, "n": result.n}
    if result.unit:
        args["unit"] = inert(result.unit)
    if result.p_value is not None:
        args["p_value"] = result.p_value
    if result.ci:
        args["interval"] = [result.ci.low, result.ci.high]
        args["interval_level"] = result.ci.level
    if result.bank:
        args["bank"] = inert(result.bank.id)
    name = inert(result.statistic) or "value"
    return {"type": inert(result.probe) or "unnamed", "value": result.value, "name": name, "args": args}


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=10_000).rstrip()


def _verdict(report: AuditReport) -> Iterator[str]:
    decision = words.DECISIONS[report.verdict.decision]
    done, planned = words.evaluated(report)
    yield "## Audit\n"
    yield f"**{decision.title}.** {decision.meaning}\n"
    if words.status_note(report):
        yield f"> {words.status_note(report)}\n"
    yield from (f"- {prose(reason)}" for reason in report.verdict.reasons)
    yield f"\n{done} of {planned} probes evaluated at an audit level of {numbers.percent(report.plan.alpha)}.\n"


def _findings(report: AuditReport) -> Iterator[str]:
    if not report.findings:
        return
    yield "### Findings\n"
    yield from (_finding(finding) for finding in words.ordered_findings(report))
    yield ""


def _finding(finding: Finding) -> str:
    waiver = finding.waiver
    waived = (
        f" Waived by {prose(waiver.owner)} until {prose(waiver.expires)}: {prose(waiver.reason)}"
        if waiver
        else ""
    )
    kind = "" if finding.calibrated else ", uncalibrated"
    head = (
        f"**{finding.severity.value.capitalize()}{kind}: {prose(finding.title)}** ({code(finding.rule_id)})"
    )
    return f"- {head} {prose(finding.why)}{waived}"


def _results(report: AuditReport) -> Iterator[str]:
    yield "### Measured\n"
    if not report.results:
        yield "Nothing.\n"
        return
    head = ("Probe", "Outcome", "Measured", "p", "n", "Compared with")
    yield from table(head, (_row(result) for result in report.results))
    yield ""


def _row(result: Result) -> tuple[str, ...]:
    settled = result.outcome in (Outcome.PASS, Outcome.FAIL)
    outcome = result.outcome.value + (", uncalibrated" if settled and not result.calibrated else "")
    bounds = f", {numbers.interval(result.ci, result.unit)}" if result.ci else ""
    quantity = numbers.quantity(result.value, result.unit)
    measured = f"{prose(result.statistic)}: {prose(quantity + bounds)}" if result.value is not None else ""
    return (
        code(result.probe),
        f"{outcome}: {prose(result.reason)}" if result.reason else outcome,
        measured,
        numbers.p_value(result.p_value),
        f"{result.n:,}" if result.n else "",
        prose(words.baseline(result)) if settled else "",
    )


def _gaps(report: AuditReport) -> Iterator[str]:
    yield "### Not tested\n"
    yield from (f"- **{prose(gap.topic)}**: {prose(gap.text)}" for gap in words.gaps(report))
    yield "- Whatever is not listed under *Measured*: an audit shows what its tests saw, and no more.\n"


def _facts(report: AuditReport) -> Iterator[str]:
    base = report.subject.base
    for item in report.subject.artifacts:
        yield f"- Artifact: {code(last_part(item.path))}, SHA-256 {code(item.sha256)}"
    if base:
        yield f"- Base: {code(public_ref(base.ref))} {code(base.revision)}, SHA-256 {code(base.sha256)}"
    yield f"- Policy: {code(report.plan.policy)}, seed {report.plan.seed}"
    yield (
        f"- Report: {code(report.id)} of {code(report.created)} by {code(report.tool.name)} "
        f"{code(report.tool.version)}"
    )
