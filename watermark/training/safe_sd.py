"""``python -m watermark.training.safe_sd``: trains injection and extraction of Safe-SD on the embedded world.

As published, the encoder is shared and frozen, the decoder of pictures too, and what learns is the injection and a
decoder of marks. The published release reads the mark from the latents that were injected; here it is read from what a
detector has, the picture decoded, attacked and encoded again. The loss of the picture stands against the unmarked
picture of the same latents, ``gamma`` weighs that of the mark (:data:`GAMMA`). No adversary and no LPIPS: the
comparison is squared and absolute error over three scales.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from auditor.world.embedded import embedded_pipeline
from auditor.world.train.config import Recipe
from auditor.world.train.data import SceneData, to_unit
from auditor.world.train.loop import fit, load_ema
from watermark.engine import qr
from watermark.engine.graphic import MODULE, TILE, drawn, random_modules
from watermark.networks.safe_sd import SafeSdNet

__all__ = ["GAMMA", "RECIPE", "build", "train"]

RECIPE = Recipe(steps=1400, batch=8, lr=1e-3, warmup=60, ema=0.997, weight_decay=0.0, seed=21)
"""In the run that made the shipped weights the first 220 steps followed schedules of 2,000 steps."""
GAMMA = 1.0
_IMAGE_WEIGHT = 40.0
_FIRST_WEIGHT = 0.1
"""Part of the picture's weight at the first step; all of it from :data:`_RAMP` of the steps on."""
_RAMP = 0.5
_STRENGTHS = (0.6, 1.4)
_LATENT_NOISE = 0.03
"""What a denoiser draws is never exactly what the encoder would have found."""
_SURENESS = 4.0
_KINDS = (0.5, 0.2, 0.15, 0.15)
"""Parts of the marks that are random modules, coarse random modules, QR codes, and pictures in colour."""


def build() -> tuple[SafeSdNet, Any]:
    """Fresh networks, and the frozen autoencoder of the embedded world beside which they work."""
    torch.manual_seed(RECIPE.seed)
    vae = embedded_pipeline().vae.requires_grad_(False).eval()
    net = SafeSdNet(4, copy.deepcopy(vae.decoder), copy.deepcopy(vae.post_quant_conv))
    return net.requires_grad_(True), vae


def train(data: SceneData, folder: Path, gamma: float = GAMMA) -> SafeSdNet:
    """Trains with checkpoints in ``folder``, from the last one on; returns averaged weights."""
    from watermark.training.attack_layer import attacked

    net, vae = build()
    for each in (net, vae):
        each.to(memory_format=torch.channels_last)

    def step(i: int, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        images = _flat(to_unit(data.pixels[rng.integers(data.count, size=RECIPE.batch)]))
        marks, binary = _marks(data, RECIPE.batch, rng)
        with torch.no_grad():
            latents = vae.encode(images).latent_dist.mean
            latents = latents + _LATENT_NOISE * torch.randn(latents.shape, generator=generator)
            hidden = vae.encode(marks).latent_dist.mean
            clean = vae.decode(latents).sample
        low, high = _STRENGTHS
        strength = low + (high - low) * torch.rand(len(images), 1, 1, 1, generator=generator)
        marked = vae.decode(net.inject(latents, hidden, strength)).sample
        seen = vae.encode(attacked(marked, generator)).latent_dist.mean
        ramp = min(1.0, _FIRST_WEIGHT + (1 - _FIRST_WEIGHT) * i / (RECIPE.steps * _RAMP))
        loss: Tensor = ramp * _IMAGE_WEIGHT * _apart(marked, clean) + gamma * _unlike(
            net.extract(seen), marks, binary
        )
        return loss

    fit("safe_sd", net, step, RECIPE, folder, torch.device("cpu"))
    return net


def _apart(one: Tensor, two: Tensor) -> Tensor:
    """How far pictures are apart: squared error over three scales, and a little of the absolute one."""
    error = one - two
    total = error.square().mean() + 0.02 * error.abs().mean()
    for scale in (4, 8):
        total = total + F.avg_pool2d(error, scale).square().mean()
    return total


def _unlike(found: Tensor, marks: Tensor, binary: Tensor) -> Tensor:
    """Absolute error of mark pictures, and the surprise of the modules of those that have any."""
    error = (found - marks).abs().mean()
    side = TILE // MODULE * MODULE
    soft, want = (F.avg_pool2d(each[..., :side, :side].mean(1, keepdim=True), MODULE) for each in (found, marks))
    surprise = F.binary_cross_entropy_with_logits(
        _SURENESS * soft[binary], (want[binary] + 1) / 2
    )
    return error + surprise


def _marks(data: SceneData, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Mark pictures (count, 3, 64, 64), and which of them are made of modules: fine, coarse, or QR codes."""
    kinds = rng.choice(4, size=count, p=_KINDS)
    pictures = to_unit(data.pixels[rng.integers(data.count, size=count)])
    for row in np.flatnonzero(kinds < 3):
        modules = (
            random_modules(rng, 1),
            random_modules(rng, 3),
            qr.draw(qr.modules_of(rng.bytes(qr.CAPACITY))),
        )[kinds[row]]
        pictures[row] = torch.from_numpy(drawn(modules))
    return _flat(pictures), torch.from_numpy(kinds < 3)


def _steps_done(folder: Path) -> int:
    return int(torch.load(folder / "safe_sd.pt", map_location="cpu", weights_only=True, mmap=True)["step"])


def _flat(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for checkpoints and scenes.")
@click.option("--gamma", type=float, default=GAMMA, show_default=True, help="Weight of the mark's loss.")
@click.option("--export", "target", type=click.Path(path_type=Path), help="Write the weights as they stand here.")
def main(out: Path, gamma: float, target: Path | None) -> None:
    """Train injection and extraction, resuming where it stopped; or, with --export, write what was trained."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    if target is None:
        train(SceneData(out), out, gamma)
        return
    from watermark.training.export import export_network

    net, vae = build()
    export_network(load_ema("safe_sd", net, out), vae, RECIPE, _steps_done(out), target)


if __name__ == "__main__":
    main()
