"""``auditor personalize merge``: several low-rank adapters as one ordinary LoRA."""

from __future__ import annotations

import math
from pathlib import Path

import click

from auditor.cli.options import PATH
from auditor.errors import UsageError
from auditor.text import inert

__all__ = ["merge"]


@click.command()
@click.argument("adapters", type=PATH, nargs=-1, required=True, metavar="ADAPTER...")
@click.option(
    "--weights",
    default="",
    metavar="W,W,...",
    help="What each adapter is multiplied by, in their order. [default: 1 for each]",
)
@click.option("-o", "--out", type=PATH, required=True, metavar="DIR", help="A new folder for the result.")
def merge(adapters: tuple[Path, ...], weights: str, out: Path) -> None:
    """Add low-rank adapters up, exactly, into one file that diffusers loads; ranks add up, nothing is cut off.

    Adapters of orthogonal-adaptation with different slots and one basis seed do not overlap; how far these do is
    said on stderr, and in provenance.json. The paper merges them with a weight of 0.6 each.

    \b
    Example:
      auditor personalize merge ann/pytorch_lora_weights.safetensors bob.safetensors --weights 0.6,0.6 -o both

    \b
    Exit codes: 0 saved, 2 it failed, 64 usage
    """  # noqa: D301
    factors = _numbers(weights) if weights else [1.0] * len(adapters)
    from auditor.cli.places import new_folder
    from auditor.personalize.blocks.merged_files import merged, overlap, read_low_rank, save_merged
    from auditor.personalize.blocks.saving import sha256_of, write_sidecar

    files = [read_low_rank(path) for path in adapters]
    whole = merged(files, factors)
    new_folder(out)
    path = save_merged(out, whole, all(file.half for file in files))
    met = overlap(files)
    sources = [
        {"name": file.path.name, "sha256": file.sha256, "family": file.family, "weight": weight}
        for file, weight in zip(files, factors, strict=True)
    ]
    told = {"method": "merge", "sources": sources, "worst_cosine": met.worst, "files": {path.name: sha256_of(path)}}
    write_sidecar(out, told)
    click.echo(
        f"auditor: the adapters meet with a cosine of {met.worst:.2g} at most"
        + (f" (in {inert(met.where, 100)})" if met.where else ""),
        err=True,
    )
    click.echo(inert(str(path), 1000))


def _numbers(text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = [math.nan]
    if not all(math.isfinite(value) for value in found):
        raise UsageError(f"'{inert(text, 60)}' are no weights; write them like --weights 0.6,0.6")
    return found
