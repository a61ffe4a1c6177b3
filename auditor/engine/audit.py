"""The two calls that a command makes: audit, and go on with an audit that was interrupted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from auditor.banks import bank_for
from auditor.contracts import JsonValue, Probe
from auditor.engine.assemble import assemble
from auditor.engine.display import Display, QuietDisplay
from auditor.engine.execute import execute
from auditor.engine.plan import AuditPlan, BankLookup, build_plan
from auditor.engine.ports import SYSTEM_CLOCK, AuditSubject, Clock, DecisionPolicy
from auditor.engine.run import Ledger
from auditor.engine.rundir import FrozenPlan, RunDir, read_plan
from auditor.engine.store import MemoryStore, Store
from auditor.errors import UsageError
from auditor.registry import PROBES, Registry
from auditor.text import inert
from reports.model import AuditReport, Subject, Tool

__all__ = ["audit", "resume", "this_tool"]

PACKAGES = ("diffusers", "numpy", "peft", "safetensors", "scipy", "torch", "transformers")
DISTRIBUTION = "personalized-model-auditor"


def audit(
    subject: AuditSubject,
    *,
    policy: DecisionPolicy,
    probes: Sequence[str] | None = None,
    params: Mapping[str, Mapping[str, JsonValue]] | None = None,
    seed: int = 0,
    alpha: float | None = None,
    budget: float | None = None,
    out: Path | None = None,
    arguments: Mapping[str, JsonValue] | None = None,
    display: Display | None = None,
    registry: Registry[Probe] = PROBES,
    banks: BankLookup = bank_for,
    tool: Tool | None = None,
    operator: str = "",
    clock: Clock = SYSTEM_CLOCK,
) -> AuditReport:
    """Audits a subject. With ``out``, goes on where an interrupted run of the same plan stopped.

    Args:
        subject: handed to the probes as it is.
        policy: says which probes, at which level, and what the outcome means.
        probes: ids or patterns; the policy's own if None.
        params: fields to override, by probe id.
        seed: of every random draw, in [0, 2**63).
        alpha: level of the audit; the policy's if None.
        budget: seconds of completed work after which no further unit is begun; None for no limit.
        out: run directory, to be made; nothing is written if None.
        arguments: JSON kept in ``plan.json`` for whoever has to build the subject again.
        display: shows progress; nothing if None.
        registry: where probes are looked up.
        banks: where banks of clean scores are looked up.
        tool: says what did the auditing; :func:`this_tool` if None.
        operator: who is responsible, as the report names them.
        clock: time, for cost, budget and the report's date.

    Returns:
        The report, which is also in ``out/report.json``.

    Raises:
        UsageError: unknown probe or parameter, or a value out of range.
        OutputError: ``out`` holds something else, is in use, or cannot be written.
    """
    described = subject.describe()
    plan = build_plan(
        probes,
        policy=policy,
        params=params,
        seed=seed,
        alpha=alpha,
        budget=budget,
        base_sha256=described.base.sha256 if described.base else "",
        capabilities=subject.capabilities,
        registry=registry,
        banks=banks,
    )
    tool = tool or this_tool()
    frozen = _freeze(plan, policy, described, tool, arguments or {}, operator)
    shown = display or QuietDisplay()
    if out is None:
        return _perform(plan, frozen, subject, described, MemoryStore(), policy, tool, clock, shown)
    with RunDir.opened(out, frozen) as store:
        report = _perform(plan, frozen, subject, described, store, policy, tool, clock, shown)
        store.write_report(report)
    return report


def resume(
    run: Path,
    subject: AuditSubject,
    *,
    policy: DecisionPolicy,
    display: Display | None = None,
    registry: Registry[Probe] = PROBES,
    banks: BankLookup = bank_for,
    tool: Tool | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> AuditReport:
    """Goes on with an interrupted run; a run that had ended gives its report again.

    No unit of work whose value is in the log is done twice, and the report's canonical form is that of a run
    that was never interrupted.

    Args:
        run: its directory; :func:`auditor.engine.read_plan` tells how to build ``subject`` and ``policy``.
        subject: built again from the same artifact and base.
        policy: the policy of the plan.
        display: shows progress; nothing if None.
        registry: where probes are looked up.
        banks: where banks of clean scores are looked up.
        tool: says what did the auditing; :func:`this_tool` if None.
        clock: time.

    Raises:
        UsageError: not a run, or artifact, base, policy, probes or tool are no longer those of the plan.
        OutputError: the directory is in use, damaged, or cannot be written.
    """
    frozen = read_plan(run)
    document = frozen.plan
    tool = tool or this_tool()
    described = subject.describe()
    _check_unchanged(run, frozen, described, policy, tool)
    return audit(
        subject,
        policy=policy,
        probes=[planned.id for planned in document.probes],
        params={planned.id: planned.params for planned in document.probes},
        seed=document.seed,
        alpha=document.alpha,
        budget=document.budget_seconds,
        out=run,
        arguments=frozen.arguments,
        display=display,
        registry=registry,
        banks=banks,
        tool=tool,
        operator=frozen.operator,
        clock=clock,
    )


def this_tool(device: str = "none", determinism: str = "") -> Tool:
    """This tool with the versions of the packages that matter, found without importing them."""
    packages = {name: version for name in PACKAGES if (version := _version(name))}
    return Tool(
        version=_version(DISTRIBUTION) or "0+unknown",
        packages=packages,
        device=device,
        determinism=determinism,
    )


def _perform(
    plan: AuditPlan,
    frozen: FrozenPlan,
    subject: AuditSubject,
    described: Subject,
    store: Store,
    policy: DecisionPolicy,
    tool: Tool,
    clock: Clock,
    display: Display,
) -> AuditReport:
    ledger = Ledger(store, plan.document.budget_seconds)
    begun = ledger.of_type("run_started") or ledger.record(
        {
            "type": "run_started",
            "plan_sha256": frozen.sha256,
            "created": clock.now(),
            "operator": frozen.operator,
            "subject": described.model_dump(mode="json"),
        }
    )
    # As described when the run began: a path or the last digit of a norm may differ now.
    first = Subject.model_validate(begun["subject"])
    try:
        execute(plan, subject, first.coverage, ledger, policy, clock, display)
    finally:
        display.close()
    report = assemble(
        plan,
        ledger,
        id=f"audit-{frozen.sha256[:16]}",
        created=begun["created"],
        operator=begun["operator"],
        tool=tool,
        subject=first,
        policy=policy,
    )
    if ledger.of_type("run_finished") is None:
        ledger.record({"type": "run_finished", "decision": report.verdict.decision.value})
    return report


def _freeze(
    plan: AuditPlan,
    policy: DecisionPolicy,
    described: Subject,
    tool: Tool,
    arguments: Mapping[str, JsonValue],
    operator: str,
) -> FrozenPlan:
    return FrozenPlan(
        plan=plan.document,
        shares=plan.shares,
        policy=json.loads(policy.document),
        subject=_identity(described),
        tool={"name": tool.name, "version": tool.version},
        arguments=arguments,
        operator=operator,
    )


def _identity(described: Subject) -> dict[str, JsonValue]:
    return {
        "artifacts": [artifact.sha256 for artifact in described.artifacts],
        "base": described.base.sha256 if described.base else "",
    }


def _check_unchanged(
    run: Path, frozen: FrozenPlan, described: Subject, policy: DecisionPolicy, tool: Tool
) -> None:
    shown = inert(str(run), 300)
    now = _identity(described)
    if now["artifacts"] != frozen.subject.get("artifacts"):
        raise UsageError(f"the artifact is not the one that the run in {shown} began with; start a new audit")
    if now["base"] != frozen.subject.get("base"):
        raise UsageError(f"the base is not the one that the run in {shown} began with; start a new audit")
    if json.loads(policy.document) != dict(frozen.policy):
        raise UsageError(f"the policy is not the one that the run in {shown} began with; start a new audit")
    if tool.version != frozen.tool.get("version"):
        raise UsageError(
            f"the run in {shown} was begun by version {inert(str(frozen.tool.get('version')))} of this tool, "
            f"this is {tool.version}; start a new audit"
        )


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
