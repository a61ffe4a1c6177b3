"""What a judged picture may have gone through: brightness, blur, lost resolution, noise, the autoencoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from auditor.world.train.config import VAE
from auditor.world.train.data import to_unit
from auditor.world.train.decoder import load_decoder_ema
from auditor.world.train.loop import load_ema

__all__ = ["ROUND_TRIPS_FROM", "disturb", "round_trips"]

ROUND_TRIPS_FROM = 0.4
"""Share of the steps after which half of each batch has been through the autoencoder."""
_LATENT_NOISE = 0.2


def disturb(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random brightness, colour cast, blur, lost resolution and noise, drawn per image; most images get some.

    Args:
        images: float (N, 3, H, W) in [-1, 1].
        generator: on the CPU.
    """
    count, device = len(images), images.device

    def draw(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator).to(device)

    out = (
        images * (1 + 0.16 * (draw(1, 1, 1) - 0.5))
        + 0.12 * (draw(1, 1, 1) - 0.5)
        + 0.06 * (draw(3, 1, 1) - 0.5)
    )
    soft = F.avg_pool2d(F.pad(out, (1, 1, 1, 1), mode="replicate"), 3, 1)
    out = out + draw(1, 1, 1) * (draw(1, 1, 1) < 0.5) * (soft - out)
    half = F.interpolate(F.avg_pool2d(out, 2), scale_factor=2, mode="bilinear", align_corners=False)
    out = torch.where(draw(1, 1, 1) < 0.12, half, out)
    noise = torch.randn(images.shape, generator=generator).to(device)
    return out + noise * 0.1 * draw(1, 1, 1) * (draw(1, 1, 1) < 0.6)


@torch.no_grad()
def round_trips(pixels: np.ndarray, folder: Path, device: torch.device, seed: int) -> np.ndarray:
    """Pictures encoded, given a little latent noise (none to a fifth of the latents' spread), and decoded.

    Args:
        pixels: uint8 (N, 64, 64, 3).
        folder: where ``vae.pt`` lies.
        device: where to compute.
        seed: of the latent noise.

    Returns:
        uint8, the shape of ``pixels``.
    """
    vae = AutoencoderKL(**VAE)
    load_ema("vae", vae, folder)
    if (folder / "decoder.pt").exists():
        load_decoder_ema(vae, folder)
    vae.to(device, memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(seed)
    out = np.empty_like(pixels)
    for start in range(0, len(pixels), 50):
        images = to_unit(pixels[start : start + 50], device).contiguous(memory_format=torch.channels_last)
        latents = vae.encode(images).latent_dist.mean
        share = _LATENT_NOISE * torch.rand(len(latents), 1, 1, 1, generator=generator) * latents.std().cpu()
        latents = latents + (share * torch.randn(latents.shape, generator=generator)).to(device)
        decoded = vae.decode(latents).sample.clamp(-1, 1)
        out[start : start + 50] = ((decoded + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return out
