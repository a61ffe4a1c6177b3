"""Pictures from the embedded pipeline: sampled from captions, and renders put through parts of it.

Noise is drawn per picture from its own seed, so that batch size does not change what comes out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from auditor.world.embedded import GUIDANCE, STEPS

__all__ = ["regenerate", "round_trip", "sample"]

Tick = Callable[[int], None]
_REGENERATE_SPACING = 25


def sample(
    pipeline: Any,
    captions: Sequence[str],
    seed: int,
    *,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    batch: int = 48,
    tick: Tick = lambda count: None,
) -> np.ndarray:
    """One picture per caption: uint8 (N, H, W, 3). Picture i starts from noise of seed ``seed + i``.

    Args:
        pipeline: A ``StableDiffusionPipeline``.
        captions: N prompts.
        seed: Of the first picture.
        steps: Of the pipeline's own scheduler.
        guidance: Classifier-free guidance scale; 1 is none.
        batch: Pictures at a time.
        tick: Told how many pictures came out, batch by batch.
    """
    parts = []
    for start in range(0, len(captions), batch):
        chunk = list(captions[start : start + batch])
        generators = [torch.Generator().manual_seed(seed + start + i) for i in range(len(chunk))]
        images = pipeline(
            chunk, num_inference_steps=steps, guidance_scale=guidance, generator=generators, output_type="np"
        ).images
        parts.append(np.rint(images * 255).astype(np.uint8))
        tick(len(chunk))
    return np.concatenate(parts)


@torch.no_grad()
def round_trip(
    pipeline: Any, pixels: np.ndarray, *, batch: int = 50, tick: Tick = lambda count: None
) -> np.ndarray:
    """Pictures encoded to their posterior mean and decoded: uint8 (N, H, W, 3) in and out."""
    parts = []
    for start in range(0, len(pixels), batch):
        latents = _encode(pipeline, pixels[start : start + batch])
        parts.append(_decode(pipeline, latents))
        tick(len(latents))
    return np.concatenate(parts)


@torch.no_grad()
def regenerate(
    pipeline: Any,
    pixels: np.ndarray,
    captions: Sequence[str],
    seed: int,
    *,
    timestep: int = 150,
    batch: int = 50,
    tick: Tick = lambda count: None,
) -> np.ndarray:
    """Pictures noised to an early timestep and denoised again with their own captions, without guidance.

    Source: C. Meng et al., SDEdit, ICLR 2022. DDIM, one step per 25 timesteps.

    Args:
        pipeline: A ``StableDiffusionPipeline`` with a DDIM scheduler.
        pixels: uint8 (N, H, W, 3).
        captions: N, one per picture.
        seed: Picture i gets noise of seed ``seed + i``.
        timestep: How far to go, of 1000.
        batch: Pictures at a time.
        tick: Told how many pictures came out, batch by batch.
    """
    scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(scheduler.config.num_train_timesteps // _REGENERATE_SPACING)
    path = [t for t in scheduler.timesteps if t <= timestep + scheduler.config.steps_offset]
    parts = []
    for start in range(0, len(pixels), batch):
        latents = _encode(pipeline, pixels[start : start + batch])
        noise = torch.stack(
            [
                torch.randn(latents.shape[1:], generator=torch.Generator().manual_seed(seed + start + i))
                for i in range(len(latents))
            ]
        ).to(latents)
        states = _states(pipeline, list(captions[start : start + batch]))
        latents = scheduler.add_noise(latents, noise, path[0].repeat(len(latents)))
        for t in path:
            latents = scheduler.step(pipeline.unet(latents, t, states).sample, t, latents).prev_sample
        parts.append(_decode(pipeline, latents))
        tick(len(latents))
    return np.concatenate(parts)


def _states(pipeline: Any, captions: list[str]) -> Tensor:
    tokenizer, text = pipeline.tokenizer, pipeline.text_encoder
    ids = tokenizer(
        captions,
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    ).input_ids
    states: Tensor = text(ids.to(text.device))[0]
    return states


def _encode(pipeline: Any, pixels: np.ndarray) -> Tensor:
    vae = pipeline.vae
    images = torch.tensor(pixels, device=vae.device).permute(0, 3, 1, 2).to(vae.dtype) / 127.5 - 1
    latents: Tensor = vae.encode(images).latent_dist.mean * vae.config.scaling_factor
    return latents


def _decode(pipeline: Any, latents: Tensor) -> np.ndarray:
    images = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
    images = ((images.float().clamp(-1, 1) + 1) * 127.5).round().byte()
    return np.asarray(images.permute(0, 2, 3, 1).cpu().numpy())
