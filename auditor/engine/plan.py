"""What will be run, in which order, at which level: a graph that is frozen before the first measurement."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from pydantic import TypeAdapter, ValidationError

from auditor.banks import BankData, Pool, bank_for, params_document, pools_of
from auditor.contracts import Capability, JsonValue, Params, Probe, Stage
from auditor.engine.ports import DecisionPolicy
from auditor.errors import UsageError
from auditor.registry import PROBES, Registry
from auditor.stats import alpha_split
from auditor.text import did_you_mean, inert
from reports.model import Plan, PlannedProbe

__all__ = ["AuditPlan", "BankLookup", "PlanNode", "build_plan"]

BankLookup = Callable[[Probe, str, Params], BankData | None]
STAGES = tuple(Stage)
OTHER_FAMILIES = "other"


@dataclass(frozen=True)
class PlanNode:
    """One probe of the plan.

    Attributes:
        probe: what is run.
        params: instance of ``probe.params``.
        alpha: level in [0, 1) that the probe may spend; 0 if its family has no share, the subject does not offer what
            it needs, or it is a screen; the audit's own if it is asked on request.
    """

    probe: Probe
    params: Params
    alpha: float


@dataclass(frozen=True)
class AuditPlan:
    """The graph in execution order.

    Attributes:
        nodes: every probe after all that it consumes.
        shares: level of each family that may spend alpha; they sum to at most the audit's alpha.
        document: the plan as the report shows it.
        pools: probe id to the pool that judges it, where several of a family are judged as one.
    """

    nodes: tuple[PlanNode, ...]
    shares: Mapping[str, float]
    document: Plan
    pools: Mapping[str, Pool] = field(default_factory=dict)

    @property
    def screens(self) -> frozenset[str]:
        """Probes that settle nothing, see :class:`auditor.contracts.Probe`."""
        return frozenset(node.probe.id for node in self.nodes if node.probe.screen)

    def alone(self, family: str) -> list[PlanNode]:
        """Probes of a family that may spend alpha and are not judged together with others."""
        mine = [n for n in self.nodes if n.probe.family == family and not n.probe.on_request]
        return [n for n in mine if n.alpha > 0 and n.probe.id not in self.pools]


def build_plan(
    probes: Sequence[str] | None,
    *,
    policy: DecisionPolicy,
    params: Mapping[str, Mapping[str, JsonValue]] | None = None,
    seed: int = 0,
    alpha: float | None = None,
    budget: float | None = None,
    base_sha256: str = "",
    capabilities: frozenset[Capability] = frozenset(Capability),
    registry: Registry[Probe] = PROBES,
    banks: BankLookup = bank_for,
) -> AuditPlan:
    """Builds the plan. Probes that a chosen one consumes are added.

    Within a family that has a share of alpha, the share is divided evenly among its planned probes, so that
    whatever a probe rejects at its level is also rejected by Holm's procedure over the family. Probes whose banks
    measured the same adapters are judged as one (:class:`auditor.banks.Pool`) and take one part together; screens, and
    those that the subject cannot be asked, which is known before anything is measured, take none. Probes on request
    have the whole level each: their questions are not the audit's.

    Args:
        probes: ids or patterns such as ``backdoor.*``; if None, those that the policy lists or requires. A pattern
            leaves out probes of several parts where the subject has one, and probes on request.
        policy: gives the default probes, alpha and its split.
        params: fields to override, by probe id.
        seed: of the run, in [0, 2**63).
        alpha: level of the audit; the policy's if None.
        budget: seconds of work, or None for no limit.
        base_sha256: the audited base, to find banks by; empty if there is none.
        capabilities: what the subject offers.
        registry: where probes are looked up.
        banks: where banks are looked up.

    Raises:
        UsageError: unknown probe or parameter (with the closest known name), a value out of range, nothing
            to run, a cycle.
    """
    level = policy.alpha if alpha is None else alpha
    if not 0 < level < 1:
        raise UsageError(f"alpha must lie between 0 and 1, not {level:g}")
    if not 0 <= seed < 2**63:
        raise UsageError(f"a seed must lie in [0, 2**63), not {seed}")
    if budget is not None and not 0 < budget < float("inf"):
        raise UsageError(f"a budget must be a positive number of seconds, not {budget:g}")
    asked_by = f"the policy '{inert(policy.name)}' asks for an "
    required = _select(policy.required, registry, capabilities, asked_by)
    wanted = (
        _select(policy.probes, registry, capabilities) + required
        if probes is None
        else _select(probes, registry, capabilities)
    )
    chosen = _closure(wanted, registry)
    if not chosen:
        raise UsageError("the plan is empty: name at least one probe (auditor list probes)")
    ordered = _in_order(chosen)
    overrides = params or {}
    for name in overrides:
        if name not in chosen:
            where = did_you_mean(name, chosen)
            raise UsageError(f"parameters are given for '{inert(name)}', which is not planned{where}")
    sharing = [p for p in ordered if not p.screen and not p.on_request]
    shares = _shares(sharing, level, policy.split)
    asked = [p for p in sharing if p.needs <= capabilities]
    given = {p.id: parse_params(p, overrides.get(p.id, {})) for p in ordered}
    found = {p.id: banks(p, base_sha256, given[p.id]) for p in ordered if p.bank and base_sha256}
    pools: dict[str, Pool] = {}
    levels: dict[str, float] = {}
    for family, share in shares.items():
        mine = [p for p in asked if p.family == family]
        pooled = pools_of({p.id: bank for p in mine if (bank := found.get(p.id)) is not None})
        groups = len({id(pool) for pool in pooled.values()}) + sum(p.id not in pooled for p in mine)
        levels |= {p.id: share / groups for p in mine}
        pools |= pooled
    nodes = tuple(PlanNode(p, given[p.id], level if p.on_request else levels.get(p.id, 0.0)) for p in ordered)
    document = Plan(
        policy=policy.name,
        policy_sha256=policy.sha256,
        alpha=level,
        seed=seed,
        probes=tuple(
            PlannedProbe(
                id=node.probe.id,
                version=node.probe.version,
                params=params_document(node.params),
                consumes=node.probe.consumes,
            )
            for node in nodes
        ),
        budget_seconds=budget,
        banks=tuple(bank.reference() for bank in found.values() if bank is not None),
    )
    return AuditPlan(nodes, shares, document, pools)


def parse_params(probe: Probe, given: Mapping[str, JsonValue]) -> Params:
    """A probe's parameters from JSON values; fields that are not given keep their defaults.

    Raises:
        UsageError: a field that the probe does not have, or a value of the wrong kind.
    """
    known = [field.name for field in dataclasses.fields(probe.params)]
    for name in given:
        if name not in known:
            raise UsageError(f"probe {probe.id} has no parameter '{inert(name)}'{did_you_mean(name, known)}")
    adapter: TypeAdapter[Any] = TypeAdapter(probe.params)
    try:
        return adapter.validate_python(dict(given))
    except ValidationError as problem:
        first = problem.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"parameter '{inert(name)}' of probe {probe.id}: {inert(first['msg'])}") from problem


def _select(
    names: Sequence[str], registry: Registry[Probe], capabilities: frozenset[Capability], who: str = ""
) -> list[str]:
    """Ids that ``names`` mean; ``who`` asks for them, the user if empty.

    A pattern does not mean probes of several parts where there is one, since it offers nothing less than it should, nor
    probes on request.
    """
    known = registry.names()
    one_part = Capability.PARTS not in capabilities
    found: list[str] = []
    for name in names:
        matching = [
            probe
            for probe in known
            if fnmatchcase(probe, name) and (probe == name or _meant(registry.get(probe), one_part))
        ]
        if not matching and name != "*":
            hint = did_you_mean(name, known)
            raise UsageError(f"{who}unknown probe '{inert(name)}'{hint} (auditor list probes)")
        found += matching
    return found


def _meant(probe: Probe, one_part: bool) -> bool:
    """Whether a pattern that its id fits means a probe."""
    return not probe.on_request and not (one_part and Capability.PARTS in probe.needs)


def _closure(names: Iterable[str], registry: Registry[Probe]) -> dict[str, Probe]:
    chosen: dict[str, Probe] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in chosen:
            chosen[name] = registry.get(name)
            waiting += chosen[name].consumes
    return chosen


def _in_order(chosen: Mapping[str, Probe]) -> list[Probe]:
    missing = {name: set(probe.consumes) for name, probe in chosen.items()}
    ready = [(STAGES.index(probe.stage), name) for name, probe in chosen.items() if not probe.consumes]
    heapq.heapify(ready)
    ordered: list[Probe] = []
    while ready:
        _, name = heapq.heappop(ready)
        ordered.append(chosen[name])
        for other, waits in missing.items():
            if name in waits:
                waits.remove(name)
                if not waits:
                    heapq.heappush(ready, (STAGES.index(chosen[other].stage), other))
    if len(ordered) < len(chosen):
        stuck = sorted(set(chosen) - {probe.id for probe in ordered})
        raise UsageError(f"these probes consume each other in a circle: {', '.join(stuck)}")
    return ordered


def _shares(probes: Sequence[Probe], alpha: float, split: Mapping[str, float]) -> dict[str, float]:
    """Families of the plan that may spend alpha.

    A family that the policy does not name takes part with the weight of ``other`` if any of its probes looks
    beyond the file; one with weight 0 takes no part, and then cannot pass by a p-value either.
    """
    weights: dict[str, float] = {}
    for probe in probes:
        if probe.family in split:
            weights[probe.family] = split[probe.family]
        elif probe.stage is not Stage.FILE:
            weights[probe.family] = split.get(OTHER_FAMILIES, 1.0)
    positive = {family: weight for family, weight in weights.items() if weight > 0}
    return alpha_split(alpha, positive) if positive else {}
