"""Writing a finished run in other formats: which writers, from where, to where."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from auditor.cli.writers import writer_named
from auditor.errors import MissingExtra, OutputError, UsageError
from auditor.text import inert

if TYPE_CHECKING:
    from auditor.contracts import Writer
    from auditor.engine import FinishedRun

__all__ = ["finished_run", "named_writers", "write_formats"]


def named_writers(formats: str) -> list[Writer]:
    """The writers of a comma-separated list, each once.

    Raises:
        UsageError: there is no name in it, or no writer of that name.
    """
    names = list(dict.fromkeys(name.strip() for name in formats.split(",") if name.strip()))
    if not names:
        raise UsageError("--as names no format (auditor list writers)")
    return [writer_named(name) for name in names]


def finished_run(run: Path) -> FinishedRun:
    """The run of a directory, or of the ``report.json`` in it.

    Raises:
        UsageError: there is none, or it is not finished.
    """
    from auditor.engine import open_run

    if not run.exists():
        raise UsageError(f"there is no run '{inert(str(run), 300)}'; check the path")
    return open_run(run.parent if run.is_file() and run.name == "report.json" else run)


def write_formats(finished: FinishedRun, writers: Sequence[Writer], out: Path | None) -> None:
    """Writes each format and prints its path; ``-`` as ``out`` is stdout, None the run's own directory.

    Raises:
        UsageError: several formats for stdout.
        OutputError: a file cannot be written.
        MissingExtra: a writer needs a package that is not installed.
    """
    from auditor.engine import write_atomic
    from reports.sign import SIGNATURE_FILE

    if out is not None and str(out) == "-":
        if len(writers) > 1:
            raise UsageError("only one format can go to stdout; name one with --as")
        sys.stdout.buffer.write(_written(writers[0], finished))
        return
    # All are made before the first is written: a missing package leaves no half of what was asked for.
    made = [(writer, _written(writer, finished)) for writer in writers]
    target = finished.path if out is None else out
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot write in '{inert(str(target), 300)}' ({error.strerror}); choose another place with -o"
        ) from error
    own = (finished.path / "report.json").resolve()
    for writer, data in made:
        path = target / f"report{writer.SUFFIX}"
        # The run's own report.json is what was audited and may be signed: it is never written again.
        if path.resolve() != own:
            write_atomic(path, data)
        click.echo(inert(str(path), 1000))
    if target.resolve() == finished.path.resolve() and (target / SIGNATURE_FILE).exists():
        click.echo(
            "the run is signed, and what was written now is not: sign it again with --replace", err=True
        )


def _written(writer: Writer, finished: FinishedRun) -> bytes:
    try:
        return writer.write(finished.report, finished.evidence)
    except ImportError as missing:
        raise MissingExtra(inert(str(missing), 300)) from missing
