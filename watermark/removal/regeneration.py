"""Regeneration: noise put on the latents, and taken off again by a diffusion model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from watermark.removal.attack import Removal, drawn

if TYPE_CHECKING:
    from auditor.pipeline.view import View

__all__ = ["regenerated", "regeneration"]

_STEPS_OF_ALL = 50
_LEAST_STEPS = 4


@torch.no_grad()
def regenerated(view: View, clean: Tensor, strength: float, seeds: Sequence[int]) -> Tensor:
    """Latents with noise on them, denoised with the empty prompt.

    Steps are those of a deterministic sampler in the clean latents and the noise that the model sees, which is DDIM on
    a variance-preserving schedule and Euler's method on straight lines.

    Args:
        view: the model.
        clean: scaled latents (B, C, h, w).
        strength: part of the schedule, in (0, 1].
        seeds: of the noise, one a row.
    """
    denoiser, schedule = view.denoiser, view.schedule
    noise = torch.stack([drawn(seed, clean.shape[1:]) for seed in seeds]).to(clean)
    condition = view.encode_prompt([""] * len(clean))
    if view.components.kind.guidance_distilled:
        condition = condition.told(1.0)
    latents = clean
    for t in _times(strength, len(schedule)):
        here = torch.full((len(clean),), t, device=clean.device)
        latents = schedule.alpha(here) * latents + schedule.sigma(here) * noise
        said = denoiser.predict(latents, here, condition)
        latents, noise = said.x0, said.epsilon
    return latents


def _times(strength: float, total: int) -> list[int]:
    """Positions on the schedule, from the noisiest on, evenly spaced."""
    start = max(1.0, strength * total) - 1
    steps = max(_LEAST_STEPS, math.ceil(strength * _STEPS_OF_ALL))
    return [round(start * (steps - i) / steps) for i in range(steps)]


def regeneration(view: View) -> Removal:
    """The attack with a model, the marking one or another."""

    def effect(images: Tensor, strength: float, seeds: Sequence[int]) -> Tensor:
        clean = view.encode_image(images * 2 - 1)
        return (view.decode(regenerated(view, clean, strength, seeds)).to(images) + 1) / 2

    return Removal(
        id="regeneration",
        goal="Put noise on the latents and let a diffusion model take it off.",
        unit="part of the noise schedule",
        grid=(0.06, 0.1, 0.2),
        least=0.001,
        most=1,
        refs=(
            "X. Zhao et al., Invisible Image Watermarks Are Provably Removable, NeurIPS 2024, arXiv 2306.01953",
            "C. Meng et al., SDEdit, ICLR 2022, arXiv 2108.01073",
        ),
        effect=effect,
    )
