"""``auditor report``: a finished run in other formats, signed, and checked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from auditor.cli.default_group import DefaultGroup
from auditor.cli.options import PATH
from auditor.cli.report_sign import keygen, sign, verify
from auditor.errors import UsageError

__all__ = ["report"]


@click.command("write")
@click.argument("run", metavar="RUN", type=PATH)
@click.option(
    "--as",
    "formats",
    default="html",
    show_default=True,
    metavar="NAMES",
    help="Comma-separated writers: html, md, json, text, sarif, junit, csv, parquet, card.",
)
@click.option(
    "--map",
    "mappings",
    multiple=True,
    metavar="NAME@EDITION",
    help="Add what the run is evidence for in a framework; several by comma. (auditor list mappings)",
)
@click.option(
    "-o",
    "--out",
    type=PATH,
    default=None,
    metavar="DIR",
    help="Folder to write into, '-' for stdout. [default: the run directory]",
)
def write(run: Path, formats: str, mappings: tuple[str, ...], out: Path | None) -> None:
    """Write a finished run in other formats, and print the paths of what was written."""
    from auditor.cli.mappings import with_controls
    from auditor.cli.report_write import finished_run, named_writers, write_formats

    writers = named_writers(formats)
    finished = finished_run(run)
    own = out is None or out.resolve() == finished.path.resolve()
    if mappings and own and any(writer.NAME == "json" for writer in writers):
        raise UsageError(
            "--map adds controls, and the run's own report.json is never changed; name a folder with -o"
        )
    write_formats(replace(finished, report=with_controls(finished.report, mappings)), writers, out)


@click.group(cls=DefaultGroup, default=write)
def report() -> None:
    """Write a finished run in other formats and print the paths of what was written; or sign it, or check it.

    RUN is the directory of a run. One that is called like a command is reached as ./sign.

    \b
    Examples:
      auditor report run --as html,md
      auditor report run --as text -o -
      auditor report run --map nist-ai-600-1@2024-07,eu-ai-act@2024-1689
      auditor report run --as sarif,junit -o published
      auditor report keygen -o audit.key
      auditor report sign run --key audit.key
      auditor report verify run --key audit.key.pub

    \b
    Exit codes: 0 written, 2 cannot be written, 64 not a run or no such writer
    """  # noqa: D301


for command in (sign, verify, keygen):
    report.add_command(command)
