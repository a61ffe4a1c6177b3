"""``auditor world``: a look at the embedded world."""

from __future__ import annotations

from pathlib import Path

import click

from auditor.cli.options import PATH
from auditor.text import inert

__all__ = ["world"]


@click.command()
@click.option(
    "--sheet",
    type=PATH,
    required=True,
    metavar="FILE",
    help="PNG to write: renders beside what the embedded model draws.",
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Which scenes.")
def world(sheet: Path, seed: int) -> None:
    """Draw a sheet of scenes of the embedded world, each beside what the embedded model makes of its caption.

    \b
    Examples:
      auditor world --sheet world.png
      auditor world --sheet other.png --seed 7

    \b
    Exit codes: 0 written, 2 the weights are missing or the file cannot be written, 64 usage
    """  # noqa: D301
    from auditor.world.sheet import world_sheet

    click.echo(inert(str(world_sheet(sheet, seed)), 1000))
