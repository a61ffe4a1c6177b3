"""``auditor report``: a finished run in other formats. A pure function of what the run stored."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from auditor.cli.options import PATH
from auditor.errors import UsageError
from auditor.text import inert

__all__ = ["report"]


@click.command()
@click.argument("run", metavar="RUN", type=PATH)
@click.option(
    "--as",
    "formats",
    default="html",
    show_default=True,
    metavar="NAMES",
    help="Comma-separated writers: html, md, json, text.",
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
def report(run: Path, formats: str, mappings: tuple[str, ...], out: Path | None) -> None:
    """Write a finished run as HTML, Markdown, JSON or text, and print the paths of what was written.

    \b
    Examples:
      auditor report run --as html,md
      auditor report run --as text -o -
      auditor report run --as json -o published
      auditor report run --map nist-ai-600-1@2024-07,eu-ai-act@2024-1689

    \b
    Exit codes: 0 written, 2 cannot be written, 64 not a run or no such writer
    """  # noqa: D301
    from auditor.cli.mappings import with_controls
    from auditor.cli.writers import writer_named
    from auditor.engine import open_run, write_atomic
    from auditor.errors import OutputError

    names = list(dict.fromkeys(name.strip() for name in formats.split(",") if name.strip()))
    if not names:
        raise UsageError("--as names no format (auditor list writers)")
    writers = [writer_named(name) for name in names]
    if not run.exists():
        raise UsageError(f"there is no run '{inert(str(run), 300)}'; check the path")
    folder = run.parent if run.is_file() and run.name == "report.json" else run
    finished = open_run(folder)
    shown = with_controls(finished.report, mappings)
    if out is not None and str(out) == "-":
        if len(writers) > 1:
            raise UsageError("only one format can go to stdout; name one with --as")
        sys.stdout.buffer.write(writers[0].write(shown, finished.evidence))
        return
    target = folder if out is None else out
    if mappings and "json" in names and target.resolve() == folder.resolve():
        raise UsageError(
            "--map adds controls, and the run's own report.json is never changed; name a folder with -o"
        )
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot write in '{inert(str(target), 300)}' ({error.strerror}); choose another place with -o"
        ) from error
    for writer in writers:
        path = target / f"report{writer.SUFFIX}"
        # The run's own report.json is what was audited and may be signed: it is never written again.
        if path.resolve() != (folder / "report.json").resolve():
            write_atomic(path, writer.write(shown, finished.evidence))
        click.echo(inert(str(path), 1000))
