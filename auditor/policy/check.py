"""Everything that is wrong with a policy file, and everything in it that will not do what its author hopes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from auditor.contracts import Capability, Probe
from auditor.engine.plan import PlanNode, build_plan
from auditor.errors import UsageError
from auditor.policy.load import read_policy
from auditor.policy.model import Policy
from auditor.policy.positions import Lines, line_of
from auditor.policy.waivers import is_active, is_broad, named
from auditor.registry import PROBES, Registry
from auditor.stats import bank_size_for, p_floor
from auditor.text import did_you_mean, inert

__all__ = ["Notice", "check_policy"]

SOON = 30
"""Days before its end from which on a waiver is said to expire soon."""

OTHER_FAMILIES = "other"


@dataclass(frozen=True)
class Notice:
    """One thing to know about a policy file.

    Attributes:
        level: ``error`` if the file is no policy because of it.
        line: from 1.
        key: where in the document.
        text: one sentence without its full stop.
    """

    level: Literal["error", "warning"]
    line: int
    key: str
    text: str


def check_policy(
    path: Path,
    *,
    today: date,
    banks: Mapping[str, int],
    rules: Iterable[str],
    registry: Registry[Probe] = PROBES,
) -> list[Notice]:
    """Reads a policy file and says all that is to be said of it, in the order of its lines.

    Args:
        path: the file.
        today: to tell which waivers have expired.
        banks: size of the largest bank of clean adapters there is for a probe, by probe id.
        rules: ids that findings can have besides those of probes.
        registry: the installed probes.

    Raises:
        PolicyError: the file cannot be read or is not YAML of the kind that policies are written in.
    """
    policy, problems, lines = read_policy(path)
    if policy is None:
        return [Notice("error", each.line, each.key, f"'{each.key}'{each.text}") for each in problems]
    found = [
        *_unmatched(policy, registry),
        *_levels(policy, registry, banks),
        *_waivers(policy, today, [*registry.names(), *rules]),
    ]
    notices = [Notice("warning", line_of(at, lines), _key(at, lines), text) for at, text in found]
    return sorted(dict.fromkeys(notices), key=lambda notice: notice.line)


Found = Iterator[tuple[tuple[str | int, ...], str]]


def _unmatched(policy: Policy, registry: Registry[Probe]) -> Found:
    known = registry.names()
    for key, names in (("probes", policy.probes), ("required", policy.required)):
        for place, name in enumerate(names):
            if name != "*" and not any(fnmatchcase(probe, name) for probe in known):
                hint = did_you_mean(name, known)
                effect = " and no audit can begin" if key == "required" else ""
                yield (key, place), f"no installed probe matches '{inert(name)}'{effect}{hint}"
    families = {probe.family for probe in registry}
    for family in policy.split:
        if family not in families and family != OTHER_FAMILIES:
            hint = did_you_mean(family, families)
            yield ("split", family), f"no installed probe is of the family '{inert(family)}'{hint}"


def _audited(policy: Policy, registry: Registry[Probe]) -> frozenset[Capability]:
    """What the policy's subjects offer: one adapter, unless it names a probe of several parts as required."""
    several = any(Capability.PARTS in probe.needs for probe in registry if probe.id in policy.required)
    everything = frozenset(Capability)
    return everything if several else everything - {Capability.PARTS}


def _levels(policy: Policy, registry: Registry[Probe], banks: Mapping[str, int]) -> Found:
    try:
        plan = build_plan(
            None, policy=policy, capabilities=_audited(policy, registry), registry=registry, banks=lambda *_: None
        )
    except UsageError:
        return  # a pattern that matches nothing, which was told already
    for node in plan.nodes:
        if node.probe.screen and node.probe.id in policy.required:
            yield ("required",), f"{node.probe.id} is required, but is a screen and settles nothing: it can never pass"
        if not node.probe.bank or node.probe.screen:
            continue
        if node.alpha == 0:
            if _is_required(policy, node):
                text = (
                    f"{node.probe.id} is required, but its family '{node.probe.family}' has no share of alpha: "
                    "it can never pass"
                )
                yield ("split",), text
        elif (size := banks.get(node.probe.id)) and p_floor(size) > node.alpha * (1 + 1e-12):
            text = (
                f"{node.probe.id} is left a level of {node.alpha:.3g}, but no bank on this machine has more than "
                f"{size} clean adapters for it, which cannot judge below {p_floor(size):.3g} (it takes "
                f"{bank_size_for(node.alpha)}): it can never pass"
            )
            yield ("alpha",), text


def _is_required(policy: Policy, node: PlanNode) -> bool:
    return any(fnmatchcase(node.probe.id, pattern) for pattern in policy.required)


def _waivers(policy: Policy, today: date, known: Sequence[str]) -> Found:
    for place, waiver in enumerate(policy.waivers):
        at: tuple[str | int, ...] = ("waivers", place)
        until = waiver.expires.isoformat()
        if not is_active(waiver, today):
            yield (*at, "expires"), f"{named(waiver)} expired on {until} and does nothing"
        elif (waiver.expires - today).days <= SOON:
            yield (*at, "expires"), f"{named(waiver)} expires soon, on {until}"
        if not any(fnmatchcase(name, waiver.rule) for name in known):
            yield (
                (*at, "rule"),
                f"no rule or probe matches '{inert(waiver.rule)}'{did_you_mean(waiver.rule, known)}",
            )
        if is_broad(waiver):
            text = f"{named(waiver)} covers every artifact; add a fingerprint or an artifact's SHA-256"
            yield (*at, "rule"), text
        if policy.waivable_up_to is None:
            yield at, f"{named(waiver)} does nothing: 'waivable_up_to' is null"


def _key(at: tuple[str | int, ...], lines: Lines) -> str:
    """The innermost part around it that is written in the file, else the key itself."""
    written = at
    while written and written not in lines:
        written = written[:-1]
    return inert(".".join(str(part) for part in written or at))
