"""Measure watermarks: false alarms, power, attacks, forgeries, and another toolkit beside."""

from __future__ import annotations

from pathlib import Path

import click

from auditor.cli.main import Session
from auditor.cli.options import PATH, Shard
from auditor.text import inert

__all__ = ["watermark"]


@click.command("watermark")
@click.option(
    "-o", "--out", type=PATH, required=True, metavar="DIR",
    help="Folder for units and tables; an interrupted run is gone on with.",
)  # fmt: skip
@click.option("--schemes", default="", metavar="A,B", help="Only these schemes; all by default.")
@click.option(
    "--size", "sizes", type=click.Choice(["64", "128"]), multiple=True,
    help="Pixels of a side; may be given twice. [default: both]",
)  # fmt: skip
@click.option(
    "--n", "pictures", type=click.IntRange(1, 1_000_000), default=1000, show_default=True,
    help="Marked pictures of each scheme and size.",
)  # fmt: skip
@click.option(
    "--nulls", type=click.IntRange(1, 100_000_000), default=10_000, show_default=True,
    help="Pictures and keys that do not belong together, of each scheme and size.",
)  # fmt: skip
@click.option(
    "--attacked", type=click.IntRange(1, 1_000_000), default=200, show_default=True,
    help="Pictures of each attack and each forgery.",
)  # fmt: skip
@click.option(
    "--members", type=click.IntRange(0, 100_000), default=40, show_default=True,
    help="Adapted models of the zoo, made before.",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Of every draw.")
@click.option(
    "--peers-python", type=PATH, metavar="PATH", help="Interpreter that has markdiffusion; this one by default."
)  # fmt: skip
@click.option(
    "--zoo", type=PATH, metavar="DIR",
    help="Where trained members are kept (default: AUDITOR_ZOO, or the user's cache folder).",
)  # fmt: skip
@click.option(
    "--shard", type=Shard(), default="1/1", metavar="K/N", help="Do the K-th of N parts, to run several side by side."
)  # fmt: skip
@click.option("--tables-only", is_flag=True, help="Write the tables of what is done, and do nothing else.")
@click.pass_context
def watermark(
    ctx: click.Context,
    out: Path,
    schemes: str,
    sizes: tuple[str, ...],
    pictures: int,
    nulls: int,
    attacked: int,
    members: int,
    seed: int,
    peers_python: Path | None,
    zoo: Path | None,
    shard: tuple[int, int],
    tables_only: bool,
) -> None:
    """Draw marked pictures with every scheme, attack, forge and detect them, and count; MarkDiffusion beside.

    \b
    Examples:
      auditor prove watermark -o proof/watermark
      auditor prove watermark -o proof/watermark --schemes tail_sign --size 128 --n 64 --attacked 16
      auditor prove watermark -o proof/watermark --peers-python peers/bin/python --shard 1/2
    """  # noqa: D301
    from auditor.cli.progress import TaskProgress
    from watermark.proving.prove import SIZES, prove_watermark
    from watermark.proving.units import Amounts

    ctx.ensure_object(Session).resume = f"auditor prove watermark -o {inert(str(out), 300)}"
    with TaskProgress("proving the marks") as progress:
        prove_watermark(
            out,
            progress,
            schemes=schemes,
            sizes=[int(size) for size in dict.fromkeys(sizes)] or SIZES,
            amounts=Amounts(pictures, nulls, attacked, members),
            seed=seed,
            peers_python=peers_python,
            zoo=zoo,
            shard=shard,
            work=not tables_only,
        )
    click.echo((out / "watermark.md").read_text("utf-8"), nl=False)
