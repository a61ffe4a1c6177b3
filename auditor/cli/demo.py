"""``auditor demo``: three specimens, three verdicts, one page to open. Needs no network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from auditor.cli.options import PATH, json_option
from auditor.text import inert

if TYPE_CHECKING:
    from auditor.engine import FinishedRun

__all__ = ["demo"]

_INTRO = (
    "Adapters audited against the embedded base on this machine. Each card leads to the full report: what "
    "was tested, "
    "how sure it is, and what was not tested."
)


@dataclass(frozen=True)
class _Case:
    name: str
    title: str
    path: Path


@click.command()
@click.option(
    "-o",
    "--out",
    type=PATH,
    default=None,
    metavar="DIR",
    help="A new folder for the runs. [default: a new one, named at the end]",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda.")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    help="Seed of every random draw.",
)
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
@json_option
def demo(out: Path | None, device: str, seed: int, quiet: bool, format_: str) -> None:
    """Audit a clean LoRA, one with a planted text backdoor, and a hostile pickle, and write a page for each.

    Everything is on this machine; the pickle's payload does nothing, and is never run.

    \b
    Examples:
      auditor demo
      auditor demo -o demo && open demo/index.html

    \b
    Exit codes: 0 it ran (whatever the verdicts), 2 it could not run, 64 usage
    """  # noqa: D301
    from auditor.cli.auditing import run_audit
    from auditor.cli.opening import BaseChoice
    from auditor.cli.places import fresh_folder, new_folder, state_dir
    from auditor.engine import choose_display, open_run
    from auditor.policy import load_policy

    folder = new_folder(out if out is not None else fresh_folder(state_dir(), "demo"))
    cases = _specimens(folder / "specimens")
    policy = load_policy("default")
    runs: list[tuple[_Case, FinishedRun]] = []
    for number, case in enumerate(cases, start=1):
        if not quiet:
            click.echo(f"\nspecimen {number} of {len(cases)}: {case.title}", err=True)
        run = folder / case.name
        run_audit(
            [case.path],
            BaseChoice(device=device),
            policy=policy,
            out=run,
            display=choose_display(quiet),
            seed=seed,
        )
        runs.append((case, open_run(run)))
    index = _write_index(folder, runs)
    if format_ == "json":
        click.echo(json.dumps([_summary(case, run) for case, run in runs], indent=2, ensure_ascii=True))
        return
    for case, done in runs:
        click.echo(
            f"\n{case.title}\n{_verdict_block(done)}\nREPORT      {inert(str(done.path / 'report.html'), 300)}"
        )
    click.echo(f"\nOpen {inert(str(index), 300)} in a browser.")


def _specimens(folder: Path) -> Sequence[_Case]:
    from auditor.cli.demo_pickle import write_hostile_pickle
    from auditor.proving.specimens import demo_specimens

    shipped = demo_specimens()
    folder.mkdir(parents=True)
    hostile = write_hostile_pickle(folder / "free_style_lora.pt")
    cases = [_Case(each.name, each.title, each.path) for each in shipped]
    return [*cases, _Case("hostile-pickle", "A pickle that would run a command when it is loaded", hostile)]


def _write_index(folder: Path, runs: Sequence[tuple[_Case, FinishedRun]]) -> Path:
    from auditor.engine import write_atomic
    from reports.index import entry, write_index

    cards = [
        entry(run.report, run.evidence, f"{case.name}/report.html", note=case.title) for case, run in runs
    ]
    path = folder / "index.html"
    write_atomic(path, write_index(cards, title="Demonstration", intro=_INTRO))
    return path


def _verdict_block(run: FinishedRun) -> str:
    """The top of the console report: verdict with its reason, strongest evidence, what was not tested."""
    from reports.writers.console import render

    return render(run.report).partition("\n\n")[0]


def _summary(case: _Case, run: FinishedRun) -> dict[str, object]:
    verdict = run.report.verdict
    return {
        "name": case.name,
        "title": case.title,
        "decision": verdict.decision.value,
        "reasons": list(verdict.reasons),
        "findings": [finding.title for finding in run.report.findings],
        "report": str(run.path / "report.html"),
    }
