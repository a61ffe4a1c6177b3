"""``python -m auditor.world.train``: makes every embedded model, resuming where it stopped."""

from __future__ import annotations

from pathlib import Path

import click
import torch

STAGES = ("data", "tokenizer", "dual", "vae", "decoder", "unet", "judge", "identity")


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder for checkpoints and rendered scenes.",
)
@click.option(
    "--stage",
    "stages",
    type=click.Choice(STAGES),
    multiple=True,
    help="Only these stages (default: all, in order).",
)
@click.option(
    "--export",
    "target",
    type=click.Path(path_type=Path),
    help="Also write the weights as they stand as a model folder.",
)
@click.option(
    "--further",
    "weights",
    type=click.Path(path_type=Path, exists=True),
    help="Train only the denoiser of this export on; --export then writes that export with it.",
)
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@click.option("--threads", type=int, help="CPU threads.")
def main(
    out: Path,
    stages: tuple[str, ...],
    target: Path | None,
    weights: Path | None,
    device: str,
    threads: int | None,
) -> None:
    """Trains the embedded world's models stage by stage. Every stage checkpoints once a minute and resumes exactly."""
    from auditor.world.train import further, run

    if threads:
        torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    if weights is not None:
        if target:
            further.export_further(weights, out, target)
        else:
            further.train_further(weights, out, torch.device(device))
        return
    if stages or not target:
        for stage in stages or STAGES:
            run.STAGES[stage](out, torch.device(device))
    if target:
        run.export(out, target)


if __name__ == "__main__":
    main()
