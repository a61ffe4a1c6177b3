"""One audit with its files: what ``auditor audit`` and ``auditor demo`` have in common."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from auditor.cli.opening import BaseChoice, device_of, opened
from auditor.contracts import JsonValue

if TYPE_CHECKING:
    from auditor.engine import Display, FrozenPlan
    from auditor.policy import Policy
    from reports.model import AuditReport, Tool

__all__ = ["base_of", "continue_audit", "parts_of", "run_audit", "run_name", "write_page"]

SCREEN = "backdoor.prompt_screen"
"""The probe that prompts are given to."""


def run_audit(
    parts: Sequence[Path],
    base: BaseChoice,
    *,
    policy: Policy,
    out: Path,
    display: Display,
    probes: Sequence[str] | None = None,
    prompts: Sequence[str] = (),
    seed: int = 0,
    budget: float | None = None,
    operator: str = "",
) -> AuditReport:
    """Audits, and leaves ``report.json`` and ``report.html`` in ``out``; see :func:`auditor.engine.audit`.

    With ``prompts``, the probe that screens prompts is asked as well.
    """
    from auditor.engine import audit

    arguments = {
        "parts": [str(part.absolute()) for part in parts],
        "base": base.ref,
        "revision": base.revision,
        "device": base.device,
        "allow_download": base.allow_download,
    }
    params: dict[str, dict[str, JsonValue]] = {}
    if prompts:
        params[SCREEN] = {"prompts": list(prompts)}
        probes = [*(policy.probes + policy.required if probes is None else probes), SCREEN]
    with opened(parts, base) as subject:
        report = audit(
            subject,
            policy=policy,
            probes=probes,
            params=params,
            seed=seed,
            budget=budget,
            out=out,
            arguments=arguments,
            display=display,
            tool=_tool(device_of(subject)),
            operator=operator,
        )
    write_page(out)
    return report


def continue_audit(run: Path, plan: FrozenPlan, *, device: str | None, display: Display) -> AuditReport:
    """Goes on with an interrupted run; see :func:`auditor.engine.resume`."""
    from auditor.engine import resume
    from auditor.policy import policy_from_document

    with opened(parts_of(plan), base_of(plan, device)) as subject:
        report = resume(
            run,
            subject,
            policy=policy_from_document(plan.policy_document),
            display=display,
            tool=_tool(device_of(subject)),
        )
    write_page(run)
    return report


def parts_of(plan: FrozenPlan) -> list[Path]:
    """The paths that a run was begun with."""
    return [Path(str(part)) for part in plan.arguments.get("parts", [])]


def base_of(plan: FrozenPlan, device: str | None = None) -> BaseChoice:
    """The base that a run was begun with, on ``device`` if one is named."""
    known = plan.arguments
    return BaseChoice(
        known.get("base"),
        str(known.get("revision", "")),
        device or str(known.get("device", "auto")),
        bool(known.get("allow_download")),
    )


def run_name(parts: Sequence[Path]) -> str:
    """A plain folder name after the first part."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", parts[0].stem if parts else "")[:60].strip("-.")
    return stem or "audit"


def write_page(run: Path) -> None:
    """Writes ``report.html`` beside ``report.json``."""
    from auditor.cli.writers import writer_named
    from auditor.engine import open_run, write_atomic

    finished = open_run(run)
    write_atomic(run / "report.html", writer_named("html").write(finished.report, finished.evidence))


def _tool(device: str) -> Tool:
    from auditor.engine.audit import this_tool

    told = (
        ""
        if device == "none"
        else f"seeded; bit-identical on the same kind of device ({device.partition(':')[0]})"
    )
    return this_tool(device, told)
