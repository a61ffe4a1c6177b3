"""Runs a plan, probe by probe, and records how each one ended. A failing probe never stops the audit."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field

from auditor.contracts import Capability, Probe
from auditor.engine.display import Display
from auditor.engine.files import StoreFailure
from auditor.engine.gates import gate_result, nothing_arrived
from auditor.engine.plan import STAGES, AuditPlan, PlanNode
from auditor.engine.ports import AuditSubject, Clock, DecisionPolicy
from auditor.engine.run import BudgetStop, Ledger, ProbeRun
from auditor.engine.store import Event
from auditor.engine.values import encode
from auditor.errors import AuditorError, ResourceCap
from auditor.text import inert
from reports.model import Cost, Coverage, Finding, Outcome, Result

__all__ = ["execute", "outcomes"]

LONGEST_TRACEBACK = 20_000


@dataclass
class _Ending:
    """How a probe ended."""

    results: list[Result] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    traceback: str = ""


def execute(
    plan: AuditPlan,
    subject: AuditSubject,
    coverage: Coverage | None,
    ledger: Ledger,
    policy: DecisionPolicy,
    clock: Clock,
    display: Display,
) -> None:
    """Runs every probe that the ledger does not have yet; afterwards the ledger has all of them.

    Raises:
        OutputError: the record could not be kept. ResourceCap: a cap of :mod:`auditor.caps` was reached.
    """
    display.started(len(plan.nodes))
    for node in plan.nodes:
        if node.probe.id not in ledger.finished:
            run_or_skip(node, plan, subject, coverage, ledger, policy, clock, display)
        results, _ = outcomes(ledger.finished[node.probe.id])
        worst = next((r for r in results if r.outcome is not Outcome.PASS), results[0])
        seconds = sum(result.cost.seconds for result in results)
        display.probe_finished(node.probe.id, worst.outcome.value, worst.reason, seconds)


def outcomes(event: Event) -> tuple[list[Result], list[Finding]]:
    """Results and findings of a ``probe_finished`` event."""
    return (
        [Result.model_validate(body) for body in event["results"]],
        [Finding.model_validate(body) for body in event["findings"]],
    )


def run_or_skip(
    node: PlanNode,
    plan: AuditPlan,
    subject: AuditSubject,
    coverage: Coverage | None,
    ledger: Ledger,
    policy: DecisionPolicy,
    clock: Clock,
    display: Display,
) -> None:
    """Runs one probe, or says why not, and records it."""
    reason = (
        _missing(node.probe, subject) or _settled(node, plan, ledger, policy) or nothing_arrived(node, coverage)
    )
    if reason:
        skipped = _bare(node.probe, Outcome.SKIPPED, reason)
        _record(node, _Ending([skipped]), 0.0, ledger)
        return
    display.probe_started(node.probe.id)
    others = {name: outcomes(ledger.finished[name])[0] for name in node.probe.consumes}
    pool = plan.pools.get(node.probe.id)

    def meter() -> int:
        return int(getattr(subject, "denoiser_calls", 0))

    run = ProbeRun(node, plan.document.seed, ledger, others, clock, display, pool, meter)
    ending = _run(node, subject, run)
    ending.results = [gate_result(result, node, coverage, run.stopped) for result in ending.results]
    _record(node, ending, run.uncharged, ledger)


def _run(node: PlanNode, subject: AuditSubject, run: ProbeRun) -> _Ending:
    probe, ending = node.probe, _Ending()
    seconds, calls = 0.0, 0
    try:
        for item in probe.function(subject, node.params, run):
            if isinstance(item, Finding):
                ending.findings.append(Finding.model_validate_json(encode(item.model_dump())))
                continue
            result = _checked(item, probe)
            cost = Cost(seconds=round(run.seconds - seconds, 6), denoiser_calls=run.calls - calls)
            seconds, calls = run.seconds, run.calls
            ending.results.append(result.model_copy(update={"cost": cost}))
    except (StoreFailure, ResourceCap):
        raise
    except BudgetStop:
        run.stopped = True
    except Exception as problem:  # whatever a probe does wrong, the audit goes on and says so
        ending.traceback = traceback.format_exc()[-LONGEST_TRACEBACK:]
        ending.results = [_not_a_pass(result) for result in ending.results]
        ending.results.append(_bare(probe, Outcome.ERROR, _sentence(problem)))
    if not ending.results:
        why = "the budget was spent before the probe was done" if run.stopped else "the probe gave no result"
        ending.results.append(_bare(probe, Outcome.INCONCLUSIVE, why))
    last = ending.results[-1]
    rest = Cost(
        seconds=round(last.cost.seconds + run.seconds - seconds, 6),
        denoiser_calls=last.cost.denoiser_calls + run.calls - calls,
    )
    ending.results[-1] = last.model_copy(update={"cost": rest})
    return ending


def _checked(item: object, probe: Probe) -> Result:
    if not isinstance(item, Result):
        raise TypeError(f"the probe gave a {type(item).__name__}; results and findings are expected")
    if (item.probe, item.version) != (probe.id, probe.version):
        raise ValueError(f"the probe gave a result in the name of '{inert(item.probe)}' {item.version}")
    # As a resumed run would read it from the log.
    result = Result.model_validate_json(encode(item.model_dump()))
    return result if result.null else result.model_copy(update={"null": probe.null})


def _record(node: PlanNode, ending: _Ending, charged: float, ledger: Ledger) -> None:
    event: Event = {
        "type": "probe_finished",
        "probe": node.probe.id,
        "results": [result.model_dump(mode="json") for result in ending.results],
        "findings": [finding.model_dump(mode="json") for finding in ending.findings],
        "charged": round(charged, 6),
    }
    if ending.traceback:
        event["traceback"] = ending.traceback
    ledger.record(event)


def _missing(probe: Probe, subject: AuditSubject) -> str:
    missing = sorted(probe.needs - subject.capabilities, key=list(Capability).index)
    if not missing:
        return ""
    known: Mapping[Capability, str] = getattr(subject, "unavailable", {})
    clauses = [f"{need.value} ({known[need]})" if known.get(need) else need.value for need in missing]
    return f"needs what this subject does not offer: {', '.join(clauses)}"


def _settled(node: PlanNode, plan: AuditPlan, ledger: Ledger, policy: DecisionPolicy) -> str:
    stage = STAGES.index(node.probe.stage)
    results: list[Result] = []
    findings: list[Finding] = []
    sources: list[str] = []
    for other in plan.nodes:
        if STAGES.index(other.probe.stage) < stage and other.probe.id in ledger.finished:
            measured, found = outcomes(ledger.finished[other.probe.id])
            results += measured
            findings += found
            sources += [other.probe.id] * len(found)
    begun = ledger.of_type("run_started")
    if begun is not None:
        artifacts = [artifact["sha256"] for artifact in begun["subject"]["artifacts"]]
        findings = list(policy.waive(findings, artifacts=artifacts, created=begun["created"]).findings)
    decision = policy.settles(results, findings, sources)
    return f"an earlier stage settled the case: {decision.value}" if decision else ""


def _bare(probe: Probe, outcome: Outcome, reason: str) -> Result:
    return Result(probe=probe.id, version=probe.version, outcome=outcome, reason=reason, null=probe.null)


def _not_a_pass(result: Result) -> Result:
    if result.outcome is not Outcome.PASS:
        return result
    return result.model_copy(
        update={"outcome": Outcome.INCONCLUSIVE, "reason": "the probe failed afterwards"}
    )


def _sentence(problem: Exception) -> str:
    lines = str(problem).strip().splitlines()
    text = inert(lines[0], 300) if lines else ""
    if isinstance(problem, AuditorError) and text:
        return text
    return f"{type(problem).__name__}: {text}" if text else type(problem).__name__
