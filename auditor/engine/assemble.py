"""From a finished log to the report. Pure: the same log gives the same report."""

from __future__ import annotations

from collections.abc import Sequence

from auditor.banks import adapters_needed
from auditor.engine.execute import outcomes
from auditor.engine.gates import adjust_for_multiplicity, coverage_gap, gate_findings
from auditor.engine.plan import AuditPlan
from auditor.engine.ports import DecisionPolicy
from auditor.engine.run import Ledger
from reports.model import AuditReport, Finding, Limitation, Outcome, Result, Subject, Tool

__all__ = ["assemble", "limitations"]

STANDING = (
    Limitation(
        topic="behaviour that no probe looks for",
        text="Only the probes listed in the plan looked at this artifact; behaviour that none of them "
        "looks for was not tested.",
    ),
    Limitation(
        topic="other bases and strengths",
        text="The artifact was tested on one base, at its full strength and by itself; on another base, at "
        "another scale or merged with other adapters it may behave differently.",
    ),
    Limitation(
        topic="parts that were not given",
        text="What an artifact does only together with a part that was not given, another adapter or another text "
        "encoder, was not tested: audit all parts that run together in one command.",
    ),
    Limitation(
        topic="poisoning without a trigger",
        text="A logo, brand or style that was trained into every picture answers to no trigger; no probe looks for it.",
    ),
    Limitation(
        topic="code around the model",
        text="Pipelines, samplers and random number generators that run the model were not part of the audit; one that "
        "was tampered with can change what comes out of clean weights.",
    ),
    Limitation(
        topic="an attacker who knows the probes",
        text="Error rates hold for adapters like those in the banks named in the plan; an attacker who knows "
        "the probes may make an artifact that they do not see.",
    ),
    Limitation(
        topic="consent and licence",
        text="Whether the training data were licensed, and whether the people in them agreed, was not "
        "assessed.",
    ),
)


def assemble(
    plan: AuditPlan,
    ledger: Ledger,
    *,
    id: str,
    created: str,
    operator: str,
    tool: Tool,
    subject: Subject,
    policy: DecisionPolicy,
) -> AuditReport:
    """The report of a log that has every probe of the plan."""
    raw = {node.probe.id: outcomes(ledger.finished[node.probe.id]) for node in plan.nodes}
    adjusted = adjust_for_multiplicity([r for results, _ in raw.values() for r in results], plan)
    # A finding that two probes give stands once, in the name of the first.
    sources: dict[Finding, str] = {}
    for node in plan.nodes:
        own = [result for result in adjusted if result.probe == node.probe.id]
        for finding in gate_findings(raw[node.probe.id][1], own, node):
            sources.setdefault(finding, node.probe.id)
    waived = policy.waive(
        tuple(sources), artifacts=[artifact.sha256 for artifact in subject.artifacts], created=created
    )
    # A screen's findings speak for it; only that it could not be run is a gap.
    settling = [r for r in adjusted if r.probe not in plan.screens or r.outcome is Outcome.ERROR]
    verdict = policy.decide(
        results=settling,
        findings=waived.findings,
        coverage=subject.coverage,
        planned=[node.probe.id for node in plan.nodes],
        sources=tuple(sources.values()),
        remarks=waived.remarks,
    )
    return AuditReport(
        id=id,
        created=created,
        operator=operator,
        status=policy.status(adjusted),
        tool=tool,
        subject=subject,
        plan=plan.document,
        results=adjusted,
        findings=waived.findings,
        verdict=verdict,
        limitations=(*waived.limitations, *limitations(plan, subject, adjusted)),
    )


def limitations(plan: AuditPlan, subject: Subject, results: Sequence[Result]) -> tuple[Limitation, ...]:
    """What was not tested, and how small an effect would have been missed."""
    found = [_of_result(result) for result in results]
    gap = coverage_gap(subject.coverage)
    covered = [Limitation(topic="coverage", text=f"Coverage is incomplete: {gap}.")] if gap else []
    calibration = [
        Limitation(
            topic=node.probe.id,
            text="Not calibrated: no bank of clean adapters was found that fits, so its evidence carries no "
            "error rate. This would settle it: "
            f"auditor calibrate {node.probe.id} --base {_base(subject)} --adapters DIR, "
            f"with {adapters_needed(node.alpha)} clean adapters or more for its level of {node.alpha:.2g}",
        )
        for node in plan.nodes
        if node.probe.bank and not node.probe.screen and _ran_uncalibrated(node.probe.id, results)
    ]
    own = [Limitation(topic=n.probe.id, text=n.probe.limits) for n in plan.nodes if n.probe.limits]
    return (*covered, *(entry for entry in found if entry), *calibration, *own, *STANDING)


def _of_result(result: Result) -> Limitation | None:
    if result.outcome is Outcome.SKIPPED:
        return Limitation(topic=result.probe, text=f"Not tested: {result.reason}.")
    if result.outcome is Outcome.ERROR:
        return Limitation(topic=result.probe, text=f"Not tested, the probe failed: {result.reason}.")
    if result.outcome is Outcome.INCONCLUSIVE:
        return Limitation(topic=result.probe, text=f"Not settled: {result.reason or 'no reason was given'}.")
    if result.min_detectable_effect is not None:
        unit = f" {result.unit}" if result.unit else ""
        smallest = f"{result.min_detectable_effect:.3g}{unit}"
        return Limitation(topic=result.probe, text=f"The smallest effect it could have seen is {smallest}.")
    return None


def _ran_uncalibrated(probe_id: str, results: Sequence[Result]) -> bool:
    unrun = (Outcome.SKIPPED, Outcome.ERROR)
    return any(r.probe == probe_id and not r.calibrated and r.outcome not in unrun for r in results)


def _base(subject: Subject) -> str:
    return subject.base.ref if subject.base else "REF"
