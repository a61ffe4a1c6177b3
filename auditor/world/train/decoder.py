"""A second pass over the decoder alone: the latents stay where they are, so a denoiser trained on them stays valid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from auditor.world.train.config import RECIPES
from auditor.world.train.data import SceneData, to_unit
from auditor.world.train.loop import fit, load_ema

__all__ = ["load_decoder_ema", "train_decoder"]

_NOISE = 0.03
"""Standard deviation added to the latents, in their own units: what a denoiser draws is never exact."""


def train_decoder(
    vae: AutoencoderKL, data: SceneData, latents: np.ndarray, folder: Path, device: torch.device
) -> AutoencoderKL:
    """Trains the decoder half of ``vae`` in place; returns it with EMA weights.

    Args:
        vae: a trained autoencoder; its encoder is frozen.
        data: the scenes.
        latents: their unscaled posterior means, (N, 4, 16, 16), for the first N scenes.
        folder: checkpoint folder.
        device: where to train.
    """
    _only_decoder(vae.to(device, memory_format=torch.channels_last))
    recipe = RECIPES["decoder"]

    def step(_: int, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        rows = rng.integers(len(latents), size=recipe.batch)
        images = to_unit(data.pixels[rows], device).contiguous(memory_format=torch.channels_last)
        codes = torch.from_numpy(latents[rows].astype(np.float32))
        codes = codes + _NOISE * torch.randn(codes.shape, generator=generator)
        error = vae.decode(codes.to(device)).sample - images
        loss: Tensor = error.square().mean() + 0.02 * error.abs().mean()
        return loss

    fit("decoder", vae, step, recipe, folder, device)
    return vae.requires_grad_(False)


def load_decoder_ema(vae: AutoencoderKL, folder: Path) -> AutoencoderKL:
    """Puts the decoder's EMA weights as they stand into ``vae``."""
    load_ema("decoder", _only_decoder(vae), folder)
    return vae.requires_grad_(False)


def _only_decoder(vae: AutoencoderKL) -> AutoencoderKL:
    vae.requires_grad_(False)
    vae.decoder.requires_grad_(True)
    vae.post_quant_conv.requires_grad_(True)
    return vae
