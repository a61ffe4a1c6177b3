"""The decision: the gravest of what each piece of evidence, and each piece that is missing, argues for.

Because it is a maximum, more findings never make a decision milder. What is missing argues for
``inconclusive`` and so can never read as a pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from auditor.engine.gates import coverage_gap
from auditor.policy.ladder import milder, rank, worst
from auditor.policy.rules import Rules
from auditor.text import inert
from reports.model import Coverage, Decision, Finding, Outcome, Result, Severity, Status, Verdict, Waiver

__all__ = ["decide", "settles", "status"]

EVALUATED = (Outcome.PASS, Outcome.FAIL)
SEVERITIES = tuple(Severity)


@dataclass(frozen=True)
class _Argument:
    """What one piece of evidence argues for; ``weight`` orders arguments for the same decision."""

    decision: Decision
    text: str
    weight: int = 0


def decide(
    policy: Rules,
    *,
    results: Sequence[Result],
    findings: Sequence[Finding],
    coverage: Coverage | None,
    planned: Sequence[str],
    sources: Sequence[str] = (),
    remarks: Sequence[str] = (),
) -> Verdict:
    """The verdict on one audit.

    Args:
        policy: the rules.
        results: of every planned probe, after the engine's gates.
        findings: all of them; one under a waiver allows ``accept_with_conditions`` at best and decides
            nothing else.
        coverage: proof of what arrived in the base; None if no base was loaded.
        planned: ids of the planned probes.
        sources: the probe that gave each finding, in the same order; without them no failing result is set
            aside by a waiver.
        remarks: what else is to be said of waivers, one sentence each.

    Returns:
        The decision and its reasons, strongest first; each begins with the decision that it argues for, or
        with ``condition`` or ``waiver``.
    """
    arguments = [
        *_of_findings(policy, findings),
        *_of_failures(policy, results, _set_aside(results, findings, sources)),
        *_of_gaps(policy, results, planned),
        *_of_coverage(policy, coverage),
    ]
    decision = worst(argument.decision for argument in arguments)
    ordered = sorted(arguments, key=lambda a: (-rank(a.decision), -a.weight))
    reasons = [f"{argument.decision.value}: {argument.text}" for argument in ordered]
    if decision is Decision.ACCEPT_WITH_CONDITIONS:
        reasons += [f"condition: {condition}" for condition in policy.conditions]
    if decision is Decision.ACCEPT:
        passed = sorted(
            {r.probe for r in results if r.outcome is Outcome.PASS and _is_required(policy, r.probe)}
        )
        reasons.append(
            f"accept: everything that the policy '{policy.name}' asks for passed: {', '.join(passed)}"
        )
    reasons += [f"waiver: {remark}" for remark in remarks]
    return Verdict(decision=decision, reasons=tuple(dict.fromkeys(reasons)))


def status(policy: Rules, results: Sequence[Result]) -> Status:
    """``error`` where a required probe failed to run, or where errors left nothing evaluated."""
    failed = [r for r in results if r.outcome is Outcome.ERROR]
    nothing = not any(r.outcome in EVALUATED for r in results)
    if failed and (nothing or any(_is_required(policy, r.probe) for r in failed)):
        return Status.ERROR
    return Status.SUCCESS


def settles(
    policy: Rules, results: Sequence[Result], findings: Sequence[Finding], sources: Sequence[str] = ()
) -> Decision | None:
    """The decision that evidence so far leads to, if it is as grave as the policy's ``settle``; else None."""
    if policy.settle is None:
        return None
    failures = _of_failures(policy, results, _set_aside(results, findings, sources))
    reached = worst(argument.decision for argument in (*_of_findings(policy, findings), *failures))
    return reached if rank(reached) >= rank(policy.settle) else None


def _of_findings(policy: Rules, findings: Sequence[Finding]) -> Iterator[_Argument]:
    for finding in findings:
        if finding.waiver is not None:
            yield _of_waiver(finding, finding.waiver)
            continue
        decision = policy.gates.of(finding.severity)
        labels = [finding.severity.value]
        if not finding.calibrated:
            decision = milder(decision, policy.uncalibrated_at_most)
            labels.append("uncalibrated")
        if finding.confidence == "low":
            decision = milder(decision, policy.low_confidence_at_most)
            labels.append("low confidence")
        if decision is not Decision.ACCEPT:
            text = f"{inert(finding.title, 200)} ({', '.join(labels)}; {inert(finding.rule_id)})"
            yield _Argument(decision, text, 1 + SEVERITIES.index(finding.severity))


def _of_waiver(finding: Finding, waiver: Waiver) -> _Argument:
    text = (
        f"{inert(finding.title, 200)} ({finding.severity.value}; {inert(finding.rule_id)}) is waived by "
        f"{inert(waiver.owner)} until {inert(waiver.expires, 20)}: {inert(waiver.reason, 300)}"
    )
    return _Argument(Decision.ACCEPT_WITH_CONDITIONS, text, 1 + SEVERITIES.index(finding.severity))


def _set_aside(
    results: Sequence[Result], findings: Sequence[Finding], sources: Sequence[str]
) -> frozenset[str]:
    """Probes whose failure is told by findings that are all waived.

    Which finding belongs to which of a probe's results is not recorded, so that there must be at least as
    many findings as failures.
    """
    if len(sources) != len(findings):
        return frozenset()
    failures = Counter(result.probe for result in results if result.outcome is Outcome.FAIL)
    waived = {
        probe: [
            finding.waiver is not None for finding, at in zip(findings, sources, strict=True) if at == probe
        ]
        for probe in failures
    }
    return frozenset(probe for probe, each in waived.items() if all(each) and len(each) >= failures[probe])


def _of_failures(policy: Rules, results: Sequence[Result], set_aside: frozenset[str]) -> Iterator[_Argument]:
    for result in results:
        if result.outcome is not Outcome.FAIL:
            continue
        if result.probe in set_aside:
            text = f"{result.probe} failed, and every finding behind it is waived"
            yield _Argument(Decision.ACCEPT_WITH_CONDITIONS, text)
            continue
        decision: Decision = policy.failed_result
        label = ""
        if not result.calibrated:
            decision, label = milder(decision, policy.uncalibrated_at_most), " (uncalibrated)"
        yield _Argument(decision, f"{result.probe} failed{label}{_told(result)}")


def _of_gaps(policy: Rules, results: Sequence[Result], planned: Sequence[str]) -> Iterator[_Argument]:
    if not any(result.outcome in EVALUATED for result in results):
        yield _Argument(Decision.INCONCLUSIVE, "nothing was evaluated", 2)
    for pattern in policy.required:
        if not any(fnmatchcase(name, pattern) for name in planned):
            yield _Argument(Decision.INCONCLUSIVE, f"the policy asks for {pattern}, which was not planned", 1)
        elif not any(fnmatchcase(result.probe, pattern) for result in results):
            yield _Argument(Decision.INCONCLUSIVE, f"the policy asks for {pattern}, which gave no result", 1)
    for result in results:
        if result.outcome in EVALUATED:
            continue
        required = _is_required(policy, result.probe)
        decision = Decision.INCONCLUSIVE if required else policy.optional_not_evaluated
        if decision is not Decision.ACCEPT:
            yield _Argument(
                decision, f"{result.probe} was not settled ({result.outcome.value}){_told(result)}"
            )


def _of_coverage(policy: Rules, coverage: Coverage | None) -> Iterator[_Argument]:
    gap = coverage_gap(coverage)
    if policy.coverage == "full" and gap:
        yield _Argument(Decision.INCONCLUSIVE, f"coverage is incomplete: {gap}", 3)


def _is_required(policy: Rules, probe: str) -> bool:
    return any(fnmatchcase(probe, pattern) for pattern in policy.required)


def _told(result: Result) -> str:
    return f": {inert(result.reason, 300)}" if result.reason else ""
