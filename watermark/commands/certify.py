"""``auditor watermark certify``: what a scheme's p-values are worth, counted."""

from __future__ import annotations

import json
import re

import click

from auditor.cli.options import json_option
from auditor.errors import EXIT_FINDINGS, UsageError
from auditor.text import inert
from watermark.commands.common import named_scheme, scheme_option

__all__ = ["certify"]


@click.command("certify")
@scheme_option
@click.option(
    "--shape",
    default="4x32x32",
    show_default=True,
    metavar="CxHxW",
    help="Latents of one picture; 4x64x64 is SD at 512 pixels.",
)
@click.option(
    "--keys", type=click.IntRange(100, 10_000_000), default=1000, show_default=True, help="How many."
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Of all draws.")
@json_option
@click.pass_context
def certify(ctx: click.Context, scheme: str, shape: str, keys: int, seed: int, format_: str) -> None:
    """Count false alarms of a scheme over random keys, and say what latents of a size hold.

    A level holds unless the alarms are more than chance explains (one-sided 99.9 % Clopper-Pearson). No model is
    needed: the test is about keys, and a quarter of the latents are marked with another one.

    \b
    Examples:
      auditor watermark certify --scheme tail_sign
      auditor watermark certify --scheme prc --shape 4x64x64 --keys 10000 --json

    \b
    Exit codes: 0 every level holds, 1 one does not, 2 it failed, 64 usage
    """  # noqa: D301
    from auditor.cli.progress import TaskProgress
    from watermark.certification import null_p_values, rows_of

    chosen, sizes = named_scheme(scheme), _parsed(shape)
    held = chosen.capacity(sizes)
    with TaskProgress("certify") as progress:
        rows = rows_of(null_p_values(chosen, sizes, keys, seed, progress))
    if format_ == "json":
        about = {"scheme": chosen.id, "shape": list(sizes), "seed": seed, "capacity": held.document()}
        told = {**about, "floor": held.floor, "rows": [row.document() for row in rows]}
        click.echo(json.dumps(told, indent=2))
    else:
        click.echo(
            f"{chosen.id} in {shape}: {held.nonce_bits} bits of nonce, {held.payload_bits} bits of payload"
        )
        click.echo(f"no p-value below {held.floor:.3g}, which is what its key space can certify")
        click.echo(f"{'level':>8} {'alarms':>8} {'of keys':>8}  interval")
        for row in rows:
            verdict = "holds" if row.holds else "DOES NOT HOLD"
            line = f"{row.alpha:>8g} {row.alarms:>8} {row.n:>8}  {row.low:.4f} to {row.high:.4f}  {verdict}"
            click.echo(line)
    ctx.exit(0 if all(row.holds for row in rows) else EXIT_FINDINGS)


def _parsed(shape: str) -> tuple[int, int, int]:
    match = re.fullmatch(r"(\d{1,4})x(\d{1,4})x(\d{1,4})", shape)
    sizes = tuple(int(each) for each in match.groups()) if match else ()
    if len(sizes) != 3 or 0 in sizes:
        raise UsageError(f"--shape is written like 4x64x64, not '{inert(shape)}'")
    return sizes[0], sizes[1], sizes[2]
