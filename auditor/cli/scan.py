"""``auditor scan``: is the file safe to open, what is it, does its label tell the truth. Loads nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from auditor.cli.exits import exit_of
from auditor.cli.options import PATH, caps_options, fail_on_option, format_option
from auditor.cli.scan_many import scan_each
from auditor.cli.scan_paths import artifacts_in, check_paths
from auditor.cli.scan_report import ScanOutcome, Stamp, failed_outcome
from auditor.errors import AuditorError, combine_exit_codes

__all__ = ["scan"]


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=PATH)
@format_option("text", "json", "sarif")
@fail_on_option
@click.option(
    "--safety-only", is_flag=True, help="Say only whether each file is safe to open: quicker, for long queues."
)
@caps_options
@click.pass_context
def scan(
    ctx: click.Context, paths: tuple[Path, ...], format_: str, fail_on: str, safety_only: bool
) -> None:
    """Check files and folders without loading them: is each safe to open, what is it, is its label true.

    A folder stands for every weight file and model folder in it.

    \b
    Examples:
      auditor scan adapter.safetensors
      auditor scan downloads/ --json > scan.json
      auditor scan downloads/ --format sarif > scan.sarif
      auditor scan upload.pt --fail-on quarantine
      auditor scan intake/ --safety-only

    \b
    Exit codes:
      0 nothing at or worse than --fail-on     1 a decision at or worse
      2 a broken file                          3 not examined to its end
      4 an unsupported kind, which is named    64 a wrong path or option
    """  # noqa: D301
    check_paths(paths)
    codes: list[int] = []
    reports: list[dict[str, Any]] = []
    for outcome in _outcomes(paths, _stamp(format_), not safety_only):
        status = outcome.report["status"]
        codes.append(exit_of(outcome.decision, fail_on, status) if outcome.code is None else outcome.code)
        if outcome.sentence and (format_ != "text" or len(paths) == 1):
            click.echo(f"auditor: {outcome.sentence}", err=True)
        if format_ == "text":
            from auditor.cli.scan_text import block

            click.echo(block(outcome.report) + "\n")
        else:
            reports.append(outcome.report)
    if format_ == "json":
        import json

        click.echo("[" + ",\n".join(json.dumps(each, indent=2, ensure_ascii=True) for each in reports) + "]")
    elif format_ == "sarif":
        click.echo(_sarif(reports), nl=False)
    ctx.exit(combine_exit_codes(codes))


def _sarif(reports: Sequence[dict[str, Any]]) -> str:
    """All files as one SARIF run; this is the one format that needs the typed report."""
    from reports.model import AuditReport
    from reports.sarif.log import render

    return render([AuditReport.model_validate(each) for each in reports]).decode("utf-8")


def _stamp(format_: str) -> Stamp:
    created = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    if format_ == "text":
        return Stamp(created, "")  # not shown, and looking it up takes as long as reading a small file
    from importlib.metadata import version

    return Stamp(created, version("personalized-model-auditor"))


def _outcomes(paths: Sequence[Path], stamp: Stamp, meaning: bool) -> Iterator[ScanOutcome]:
    found: list[Path] = []
    for path in paths:
        try:
            found += artifacts_in(path)
        except AuditorError as error:
            yield failed_outcome(path, error, stamp)
    for number, outcome in enumerate(scan_each(found, stamp, meaning), start=1):
        if len(found) > 1 and sys.stderr.isatty():
            click.echo(f"\r{number} of {len(found)}\x1b[K", nl=number == len(found), err=True)
        yield outcome
