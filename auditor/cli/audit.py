"""``auditor audit``: what is hidden in an adapter, how sure we are, and what was not tested."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from click.core import ParameterSource

from auditor.cli.main import Session
from auditor.cli.options import PATH, Duration, base_options, caps_options, fail_on_option, format_option
from auditor.errors import UsageError
from auditor.text import inert

__all__ = ["audit"]

_MAY_RESUME = frozenset({"resume", "parts", "device", "format_", "fail_on", "quiet", "max_memory", "max_time"})


@click.command()
@click.argument("parts", metavar="PART...", nargs=-1, type=PATH)
@base_options
@click.option(
    "--probes",
    default=None,
    metavar="IDS",
    help="Comma-separated ids or patterns such as 'static.*'. [default: the policy's]",
)
@click.option(
    "--policy",
    default="default",
    show_default=True,
    metavar="FILE",
    help="A shipped policy by name (auditor policy list), or a YAML file.",
)
@click.option(
    "--waivers",
    type=PATH,
    default=None,
    metavar="FILE",
    help="Findings to live with for a while, by owner, reason and last day; added to the policy's own.",
)
@click.option(
    "--prompts",
    type=PATH,
    default=None,
    metavar="FILE",
    help="Prompts to be screened for triggers as well, one a line, with those that the adapter declares.",
)
@click.option(
    "--budget",
    type=Duration(),
    default=None,
    metavar="TIME",
    help="Begin no further work after this time, such as 10m.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    help="Seed of every random draw.",
)
@click.option("--operator", default="", help="Who is responsible, as the report names them.")
@click.option(
    "--resume",
    type=PATH,
    default=None,
    metavar="DIR",
    help="Go on with an interrupted run; nothing is done twice.",
)
@click.option(
    "-o",
    "--out",
    type=PATH,
    default=None,
    metavar="DIR",
    help="Run directory. [default: a new one, named on stderr]",
)
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
@format_option("text", "json", "md", "sarif")
@fail_on_option
@caps_options
@click.pass_context
def audit(
    ctx: click.Context,
    parts: tuple[Path, ...],
    base: str | None,
    revision: str,
    allow_download: bool,
    device: str,
    probes: str | None,
    policy: str,
    waivers: Path | None,
    prompts: Path | None,
    budget: float | None,
    seed: int,
    operator: str,
    resume: Path | None,
    out: Path | None,
    quiet: bool,
    format_: str,
    fail_on: str,
) -> None:
    """Audit one adapter (or several that are used together) against its base model.

    PART is an adapter file or folder. Nothing in it is executed; a file that is unsafe to open is judged by
    its bytes alone. The run directory holds plan, events, evidence, report.json and report.html.

    \b
    Examples:
      auditor audit adapter.safetensors
      auditor audit adapter.safetensors --base ./stable-diffusion-v1-5 --budget 10m -o run
      auditor audit adapter.safetensors --base org/model --revision COMMIT --allow-download
      auditor audit adapter.safetensors --prompts suspicious.txt
      auditor audit --resume run

    \b
    Exit codes:
      0 accepted               1 a decision at or worse than --fail-on
      2 the audit failed       3 inconclusive
      4 an unsupported kind    64 a wrong path, option, probe or policy
    """  # noqa: D301
    from auditor.engine import choose_display, open_run, read_plan
    from auditor.policy import exit_code
    from reports.model import Decision

    display = choose_display(quiet)
    session = ctx.ensure_object(Session)
    if resume is not None:
        _check_resume(ctx)
        plan = read_plan(resume)
        from auditor.cli.auditing import continue_audit, parts_of
        from auditor.cli.scan_paths import check_paths

        check_paths(parts_of(plan))
        run = resume
        session.resume = f"auditor audit --resume {inert(str(run), 300)}"
        named = device if ctx.get_parameter_source("device") is not ParameterSource.DEFAULT else None
        report = continue_audit(run, plan, device=named, display=display)
    else:
        from auditor.cli.auditing import run_audit, run_name
        from auditor.cli.opening import BaseChoice
        from auditor.cli.places import fresh_folder, state_dir
        from auditor.cli.prompt_file import read_prompts
        from auditor.cli.scan_paths import check_paths
        from auditor.policy import load_policy, load_waivers

        if not parts:
            raise UsageError("nothing to audit: name an adapter file or folder, or --resume a run")
        check_paths(parts)
        rules = load_policy(policy)
        if waivers is not None:
            rules = rules.with_waivers(load_waivers(waivers))
        wanted = _known_probes(probes)
        screened = () if prompts is None else read_prompts(prompts)
        run = out if out is not None else fresh_folder(state_dir() / "runs", run_name(parts))
        session.resume = f"auditor audit --resume {inert(str(run), 300)}"
        chosen = BaseChoice(base, revision, device, allow_download)
        report = run_audit(
            parts,
            chosen,
            policy=rules,
            out=run,
            display=display,
            probes=wanted,
            prompts=screened,
            seed=seed,
            budget=budget,
            operator=operator,
        )
    session.resume = ""
    _show(open_run(run), format_)
    if not quiet:
        click.echo(f"report: {inert(str(run / 'report.html'), 300)}", err=True)
    ctx.exit(exit_code(report, Decision(fail_on)))


def _known_probes(names: str | None) -> list[str] | None:
    """Checked before a base is loaded, so that a typing error costs no minute."""
    if names is None:
        return None
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if not wanted:
        raise UsageError("--probes names no probe (auditor list probes)")
    from auditor.registry import PROBES

    for name in wanted:
        if not any(char in name for char in "*?["):
            PROBES.get(name)
    return wanted


def _check_resume(ctx: click.Context) -> None:
    given = [
        parameter
        for parameter in ctx.params
        if parameter not in _MAY_RESUME and ctx.get_parameter_source(parameter) is not ParameterSource.DEFAULT
    ]
    if ctx.params["parts"]:
        raise UsageError("--resume takes the parts from the run's plan; leave them out")
    if given:
        raise UsageError(f"--resume takes --{given[0].replace('_', '-')} from the run's plan; leave it out")


def _show(finished: object, format_: str) -> None:
    from auditor.cli.writers import writer_named
    from auditor.engine import FinishedRun

    assert isinstance(finished, FinishedRun)
    if format_ == "text" and sys.stdout.isatty():
        from reports.writers.console import render

        click.echo(render(finished.report, colour=True), nl=False)
        return
    click.echo(writer_named(format_).write(finished.report, finished.evidence).decode("utf-8"), nl=False)
