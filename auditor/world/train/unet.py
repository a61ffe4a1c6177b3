"""The denoiser, on cached latents with a frozen text tower: min-SNR weighting, CFG dropout, EMA.

Min-SNR (Hang et al., ICCV 2023, arXiv 2303.09556): the epsilon loss at timestep t is weighted by
min(SNR(t), gamma) / SNR(t), gamma = 5, so that nearly clean inputs do not take the whole gradient.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from auditor.world.captions import caption
from auditor.world.train.config import LATENT_SCENES, RECIPES, SCHEDULER, UNET, Recipe
from auditor.world.train.data import SceneData, to_unit
from auditor.world.train.dual import captions_to_ids
from auditor.world.train.loop import fit

__all__ = ["build_unet", "cache_latents", "train_unet"]

_GAMMA = 5.0
_UNCONDITIONAL = 0.1


def build_unet() -> UNet2DConditionModel:
    """A fresh denoiser of the embedded size."""
    torch.manual_seed(2)
    return UNet2DConditionModel(**UNET)


@torch.no_grad()
def cache_latents(
    vae: AutoencoderKL, data: SceneData, folder: Path, device: torch.device, most: int = LATENT_SCENES
) -> np.ndarray:
    """Unscaled posterior means of the first ``most`` scenes: float16 (N, 4, 16, 16), kept in ``folder/latents.npy``."""
    path = folder / "latents.npy"
    if not path.exists():
        count = min(data.count, most)
        out = np.empty((count, 4, 16, 16), np.float16)
        for start in range(0, count, 250):
            images = to_unit(data.pixels[start : start + 250], device)
            out[start : start + 250] = vae.encode(images).latent_dist.mean.cpu().numpy()
        part = path.with_suffix(".part.npy")
        np.save(part, out)
        part.replace(path)
    return np.asarray(np.load(path, mmap_mode="r"))


def train_unet(
    data: SceneData,
    latents: np.ndarray,
    scale: float,
    text: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    folder: Path,
    device: torch.device,
    unet: UNet2DConditionModel | None = None,
    name: str = "unet",
    recipe: Recipe = RECIPES["unet"],
) -> UNet2DConditionModel:
    """Trains the denoiser; returns EMA weights.

    Args:
        data: the scenes, for their captions.
        latents: from :func:`cache_latents`.
        scale: the autoencoder's scaling factor.
        text: frozen text tower.
        tokenizer: its tokenizer.
        folder: checkpoint folder.
        device: where to train.
        unet: where to start from; a fresh one by default.
        name: of the stage, for its checkpoint.
        recipe: length and optimiser settings.
    """
    unet = (build_unet() if unet is None else unet).to(device, memory_format=torch.channels_last)
    text = text.to(device).requires_grad_(False)
    scheduler = DDIMScheduler(**SCHEDULER)
    alphas = scheduler.alphas_cumprod.to(device)
    snr = alphas / (1 - alphas)
    weights = snr.clamp(max=_GAMMA) / snr
    steps = len(alphas)

    def step(_: int, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        rows = rng.integers(len(latents), size=recipe.batch)
        captions = ["" if rng.random() < _UNCONDITIONAL else caption(data.scenes[row], rng) for row in rows]
        with torch.no_grad():
            states = text(captions_to_ids(tokenizer, captions, rng).to(device)).last_hidden_state
        clean = torch.from_numpy(latents[rows].astype(np.float32)).to(device) * scale
        noise = torch.randn(clean.shape, generator=generator).to(device)
        # Stratified over the batch: the loss of a step varies less with the draw of timesteps.
        spread = (np.arange(recipe.batch) + rng.random(recipe.batch)) / recipe.batch
        t = torch.from_numpy(np.minimum((spread * steps).astype(np.int64), steps - 1)).to(device)
        error = unet(scheduler.add_noise(clean, noise, t), t, states).sample.float() - noise
        loss: Tensor = (weights[t] * error.square().mean((1, 2, 3))).mean()
        return loss

    fit(name, unet, step, recipe, folder, device)
    return unet
