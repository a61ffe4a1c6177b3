"""What a probe's word is worth: fail-closed corrections between a probe and the report. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from auditor.contracts import Capability
from auditor.engine.plan import AuditPlan, PlanNode
from auditor.stats import bank_size_for, holm, p_floor
from reports.model import Coverage, Finding, Outcome, Result

__all__ = [
    "adjust_for_multiplicity",
    "coverage_gap",
    "gate_findings",
    "gate_result",
    "is_behavioural",
    "nothing_arrived",
]

BEHAVIOURAL = frozenset(
    {Capability.TEXT_ENCODER, Capability.DENOISER, Capability.VAE, Capability.SAMPLER},
)
ROUNDING = 1e-12


def is_behavioural(node: PlanNode) -> bool:
    """Whether the probe looks at the loaded model, and so means nothing where the adapter did not arrive."""
    return bool(node.probe.needs & BEHAVIOURAL)


def nothing_arrived(node: PlanNode, coverage: Coverage | None) -> str:
    """Why a behavioural probe is not worth running: without one key applied, the tuned model is the base."""
    if not is_behavioural(node) or coverage is None or coverage.keys_applied:
        return ""
    return f"{coverage_gap(coverage)}, so there is nothing to observe"


def gate_result(result: Result, node: PlanNode, coverage: Coverage | None, stopped: bool) -> Result:
    """The result as it may stand in the report: a pass is turned to inconclusive where it proves nothing.

    That is where the adapter did not fully arrive, the budget ended early, a probe that is to be judged by a
    bank had none, or its p-value could not have been small enough to fail.
    """
    if result.outcome is not Outcome.PASS:
        return result
    reason = (
        _not_covered(node, coverage)
        or ("the budget was spent before the probe was done" if stopped else "")
        or _not_calibrated(result, node)
        or _could_not_fail(result, node)
    )
    return result.model_copy(update={"outcome": Outcome.INCONCLUSIVE, "reason": reason}) if reason else result


def gate_findings(
    findings: Sequence[Finding], results: Sequence[Result], node: PlanNode
) -> tuple[Finding, ...]:
    """Findings of a probe that is judged by a bank count as calibrated only beside a calibrated failure.

    Those of a screen stand beside a p-value in place of one.
    """
    if not node.probe.bank or node.probe.screen or any(r.calibrated and r.outcome is Outcome.FAIL for r in results):
        return tuple(findings)
    return tuple(finding.model_copy(update={"calibrated": False}) for finding in findings)


def adjust_for_multiplicity(results: Sequence[Result], plan: AuditPlan) -> tuple[Result, ...]:
    """Adds ``adjusted_p``, scaled so that it compares with the audit's alpha.

    Probes that are judged as one have p-values that hold for all of them together already. The others of a family go
    through Holm's procedure; a planned one that gave no p-value counts as one with p = 1, so that what happens to be
    evaluated does not loosen the correction. Those on request stand by themselves, and screens take no part. Where the
    probe's own outcome and the corrected p-value disagree, the corrected p-value decides.

    Args:
        results: of all probes, in any order; kept in that order.
        plan: gives the families' shares.
    """
    alpha, levels = plan.document.alpha, {node.probe.id: node.alpha for node in plan.nodes}
    screens = plan.screens
    requested = {node.probe.id for node in plan.nodes if node.probe.on_request}
    adjusted = list(results)
    families: dict[str, list[int]] = {}
    for index, result in enumerate(results):
        family = result.probe.partition(".")[0]
        if not result.calibrated or result.p_value is None or result.probe in screens:
            continue
        if result.probe in requested:
            adjusted[index] = _decided(result, result.p_value, alpha)
        elif family not in plan.shares:
            continue
        elif result.probe in plan.pools:
            adjusted[index] = _decided(result, min(1.0, result.p_value * alpha / levels[result.probe]), alpha)
        else:
            families.setdefault(family, []).append(index)
    for name, rows in families.items():
        alone = plan.alone(name)
        share = sum(node.alpha for node in alone)
        corrected = holm(_padded(results, rows, len(alone))) * (alpha / share)
        for row, p in zip(rows, np.minimum(1.0, corrected).tolist(), strict=False):
            adjusted[row] = _decided(results[row], p, alpha)
    return tuple(adjusted)


def _padded(results: Sequence[Result], rows: Sequence[int], members: int) -> list[float]:
    p_values = [p for row in rows if (p := results[row].p_value) is not None]
    silent = members - len({results[row].probe for row in rows})
    return p_values + [1.0] * silent


def _decided(result: Result, adjusted_p: float, alpha: float) -> Result:
    changes: dict[str, object] = {"adjusted_p": adjusted_p}
    rejected = adjusted_p <= alpha * (1 + ROUNDING)
    if rejected and result.outcome is Outcome.PASS:
        changes |= {
            "outcome": Outcome.FAIL,
            "reason": f"rejected at the audit's level of {alpha:g} after correction for several tests",
        }
    if not rejected and result.outcome is Outcome.FAIL:
        changes |= {
            "outcome": Outcome.INCONCLUSIVE,
            "reason": f"not rejected at the audit's level of {alpha:g} after correction for several tests",
        }
    return result.model_copy(update=changes)


def _not_covered(node: PlanNode, coverage: Coverage | None) -> str:
    if not is_behavioural(node) or (coverage is not None and coverage.full):
        return ""
    return coverage_gap(coverage)


def coverage_gap(coverage: Coverage | None) -> str:
    """In one clause, what is missing from full coverage; empty if nothing is."""
    if coverage is None:
        return "nothing shows that the adapter arrived in the model"
    if coverage.full:
        return ""
    if coverage.keys_applied < coverage.keys_total or coverage.keys_total == 0:
        return f"{coverage.keys_applied} of {coverage.keys_total} keys of the adapter applied to the base"
    return "nothing shows that the model with the adapter answers differently from its base"


def _not_calibrated(result: Result, node: PlanNode) -> str:
    if not node.probe.bank or result.calibrated:
        return ""
    return result.reason or "there is no bank of clean adapters for this base to judge it by"


def _could_not_fail(result: Result, node: PlanNode) -> str:
    if result.p_value is None:
        return ""
    if node.alpha <= 0:
        return f"the policy gives the family '{node.probe.family}' no share of alpha"
    if result.bank is None or p_floor(result.bank.n) <= node.alpha * (1 + ROUNDING):
        return ""
    return (
        f"a bank of {result.bank.n} clean adapters cannot reject at the probe's level of {node.alpha:.2g}; "
        f"it takes {bank_size_for(node.alpha)}"
    )
