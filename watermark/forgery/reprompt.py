"""Reprompt: the noise of one marked picture, found by inversion, drawn with another prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from auditor.errors import UsageError
from watermark.forgery.forged import Forged

if TYPE_CHECKING:
    from auditor.pipeline.view import View

__all__ = ["reprompted"]


def reprompted(
    view: View,
    marked: Tensor,
    prompts: Sequence[str],
    *,
    seeds: Sequence[int] = (),
    steps: int = 25,
    guidance: float = 3.0,
) -> Forged:
    """Draws what the forger wants from the owner's noise.

    Source: A. Muller et al., "Black-Box Forgery Attacks on Semantic Watermarks for Diffusion Models", CVPR 2025, arXiv
    2412.03283.

    Args:
        view: a model of the forger's; any that is related to the owner's will do.
        marked: (B, 3, H, W) in [-1, 1], one marked picture for each forged one.
        prompts: B prompts of the forger's.
        seeds: B seeds to draw the noise's magnitudes anew from, its signs kept; the noise as it is if empty.
        steps: of inversion and of sampling.
        guidance: classifier-free guidance weight of sampling.

    Raises:
        UsageError: another number of prompts or seeds than of pictures.
    """
    if len(prompts) != len(marked) or (seeds and len(seeds) != len(marked)):
        raise UsageError("each marked picture takes one prompt, and one seed where seeds are given")
    before = view.denoiser.calls
    noise = view.invert(marked, [""] * len(marked), steps=steps).float()
    if seeds:
        fresh = [
            torch.randn(noise.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds
        ]
        noise = torch.stack(fresh).to(noise).abs().copysign(noise)
    else:
        # Samplers start from unit variance.
        noise = noise / noise.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    drawn = view.sample(prompts, [0] * len(prompts), steps=steps, guidance=guidance, noise=noise)
    return Forged(drawn, view.denoiser.calls - before, len(marked))
