"""The autoencoder: squared and absolute error, a light KL, no adversary (a figure in dB is what is asked of it)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from auditor.world.train.config import RECIPES, VAE
from auditor.world.train.data import SceneData, to_unit
from auditor.world.train.loop import fit

__all__ = ["build_vae", "latent_scale", "train_vae"]

_KL_WEIGHT = 2e-6


def build_vae() -> AutoencoderKL:
    """A fresh autoencoder of the embedded size."""
    torch.manual_seed(0)
    return AutoencoderKL(**VAE)


def train_vae(data: SceneData, folder: Path, device: torch.device) -> AutoencoderKL:
    """Trains on all scenes; returns EMA weights."""
    vae = build_vae().to(device, memory_format=torch.channels_last)
    recipe = RECIPES["vae"]

    def step(_: int, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        images = to_unit(data.pixels[rng.integers(data.count, size=recipe.batch)], device)
        images = images.contiguous(memory_format=torch.channels_last)
        posterior = vae.encode(images).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
        error = vae.decode(posterior.mean + posterior.std * noise).sample - images
        loss: Tensor = error.square().mean() + 0.1 * error.abs().mean() + _KL_WEIGHT * posterior.kl().mean()
        return loss

    fit("vae", vae, step, recipe, folder, device)
    return vae


@torch.no_grad()
def latent_scale(vae: AutoencoderKL, data: SceneData, device: torch.device) -> float:
    """1 / standard deviation of the latents, the factor that diffusers calls ``scaling_factor``."""
    images = to_unit(data.pixels[:512], device)
    means = torch.cat([vae.encode(chunk).latent_dist.mean for chunk in images.chunk(8)])
    return round(1 / means.std().item(), 5)
