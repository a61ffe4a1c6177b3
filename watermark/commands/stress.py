"""``auditor watermark stress``: which attacks a mark outlives, counted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from auditor.cli.options import json_option
from auditor.errors import UsageError
from auditor.text import inert
from watermark.commands.common import level, model_options, named_scheme, scheme_option

if TYPE_CHECKING:
    from auditor.pipeline.subject import Subject
    from auditor.pipeline.view import View
    from watermark.removal.attack import Removal
    from watermark.stress import StressRow

__all__ = ["stress"]

_PROMPTS = ("a red ball on a plain ground", "a woman with glasses", "a blue car", "an old man with a hat")


@click.command("stress")
@scheme_option
@click.option(
    "--attack",
    "names",
    multiple=True,
    metavar="NAME[=STRENGTH]",
    help="Attack to run; may be given several times. [default: all on pixels, at all their strengths]",
)
@click.option("--prompt", "prompts", multiple=True, metavar="TEXT", help="What to draw; several in turn.")
@click.option("--count", type=click.IntRange(1, 100_000), default=16, show_default=True, help="Pictures.")
@click.option("--size", type=click.IntRange(8, 8192), default=None, metavar="PIXELS", help="Of a side.")
@click.option("--steps", type=click.IntRange(1, 1000), default=20, show_default=True, help="Sampler steps.")
@click.option("--guidance", type=float, default=3.0, show_default=True, help="Guidance weight.")
@click.option(
    "--alpha", type=float, default=1e-6, show_default=True, callback=level, help="Level of detection."
)
@click.option("--register", is_flag=True, help="Search for turns, cuts and scales, and pay for it.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Of all draws.")
@model_options
@json_option
def stress(
    scheme: str,
    names: Sequence[str],
    prompts: Sequence[str],
    count: int,
    size: int | None,
    steps: int,
    guidance: float,
    alpha: float,
    register: bool,
    seed: int,
    model: str | None,
    revision: str,
    allow_download: bool,
    device: str,
    adapters: Sequence[Path],
    format_: str,
) -> None:
    """Draw marked pictures, attack them, and count how many marks are still found.

    Pictures are drawn by the model with its adapters on and inverted by the base alone, as by a detector that does not
    know the adapters. The key is made from the seed and is for measuring only.

    \b
    Examples:
      auditor watermark stress --scheme hsqr --count 32 --size 128
      auditor watermark stress --attack jpeg=25 --attack rotation=15 --register --json
      auditor watermark stress --adapter style.safetensors --attack regeneration

    \b
    Exit codes: 0 counted, 2 it failed, 64 usage
    """  # noqa: D301
    from auditor.cli.progress import TaskProgress

    chosen = named_scheme(scheme)
    with _opened(model, revision, allow_download, device, adapters) as subject:
        from watermark import stress as stressing

        attacks = _attacks(names, subject.base)
        drawing = subject.tuned if adapters else subject.base
        texts = [(prompts or _PROMPTS)[i % len(prompts or _PROMPTS)] for i in range(count)]
        with TaskProgress("stress") as progress:
            marked = stressing.draw_marked(
                drawing, chosen, texts, size=size, steps=steps, guidance=guidance, seed=seed
            )
            rows = stressing.stress(
                subject.base,
                chosen,
                marked,
                attacks,
                alpha=alpha,
                register=register,
                seed=seed,
                progress=progress,
            )
    if format_ == "json":
        about = {"scheme": chosen.id, "shape": list(marked.shape), "seed": seed, "alpha": alpha}
        told = {**about, "registered": register, "rows": [row.document() for row in rows]}
        click.echo(json.dumps(told, indent=2))
        return
    click.echo(_table(rows, alpha))


@contextmanager
def _opened(
    model: str | None, revision: str, allow_download: bool, device: str, adapters: Sequence[Path]
) -> Iterator[Subject]:
    from auditor.pipeline.open import load_base, open_subject
    from auditor.pipeline.subject import Subject

    if adapters:
        with open_subject(adapters, model, device, allow_download, revision) as subject:
            yield subject
        return
    with Subject(load_base(model, device, allow_download, revision), ()) as bare:
        yield bare


def _attacks(names: Sequence[str], view: View) -> list[tuple[Removal, float]]:
    """Attacks with strengths as they were asked for; all strengths of the grid where none was."""
    from watermark.removal.catalogue import SIGNAL, removal

    asked = []
    for name in names or SIGNAL:
        bare, _, strength = name.partition("=")
        found = removal(bare, view)
        asked += [(found, value) for value in ((_number(strength, bare),) if strength else found.grid)]
    return asked


def _number(text: str, attack: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"the strength '{inert(text, 40)}' of {attack} is not a number") from None


def _table(rows: Sequence[StressRow], alpha: float) -> str:
    lines = [f"{'attack':<20} {'strength':>8} {'found':>9}  95 % interval     payload   median p   PSNR"]
    for row in rows:
        read = "-" if row.payloads is None else f"{row.payloads}/{row.n}"
        psnr = "" if row.psnr is None else f"{row.psnr:.1f} dB"
        lines.append(
            f"{row.attack:<20} {row.strength:>8g} {f'{row.found}/{row.n}':>9}  {row.low:>6.1%} to {row.high:>6.1%}  "
            f"{read:>9}  {row.median_p:>9.2g}  {psnr:>8}"
        )
    return "\n".join([*lines, f"found: p <= {alpha:g}"])
