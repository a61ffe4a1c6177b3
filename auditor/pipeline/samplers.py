"""The deterministic samplers by name, each with its inverse, and which one a base takes by default."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from auditor.errors import UsageError
from auditor.pipeline.conditioning import Conditioning
from auditor.pipeline.denoiser import Denoiser
from auditor.pipeline.dpmpp import dpmpp_invert, dpmpp_sample
from auditor.pipeline.euler import euler_invert, euler_sample
from auditor.pipeline.sampling import ddim_invert, ddim_sample
from auditor.pipeline.schedule import FlowMatching

__all__ = ["SAMPLERS", "Sampler", "default_sampler", "draw_latents", "sampler"]


@dataclass(frozen=True)
class Sampler:
    """A way from noise to latents, and back.

    Attributes:
        sample: (denoiser, noise, condition, null, steps, guidance) to clean latents.
        invert: (denoiser, clean, condition, null, steps, guidance, refine) to noise.
    """

    sample: Callable[[Denoiser, Tensor, Conditioning, Conditioning, int, float], Tensor]
    invert: Callable[[Denoiser, Tensor, Conditioning, Conditioning, int, float, int], Tensor]


SAMPLERS = {
    "ddim": Sampler(ddim_sample, ddim_invert),
    "dpmpp": Sampler(dpmpp_sample, dpmpp_invert),
    "euler": Sampler(euler_sample, euler_invert),
}


def default_sampler(denoiser: Denoiser) -> str:
    """``euler`` for flow-matching models, ``ddim`` for variance-preserving ones."""
    return "euler" if isinstance(denoiser.schedule, FlowMatching) else "ddim"


def sampler(denoiser: Denoiser, name: str | None = None) -> Sampler:
    """The sampler of that name, or the default for this model. Raises ``UsageError`` for an unknown name."""
    chosen = name or default_sampler(denoiser)
    if chosen not in SAMPLERS:
        raise UsageError(f"there is no sampler '{chosen}'; there are {', '.join(SAMPLERS)}")
    return SAMPLERS[chosen]


def draw_latents(
    denoiser: Denoiser,
    noise: Tensor,
    condition: Conditioning,
    null: Conditioning,
    steps: int,
    guidance: float,
) -> Tensor:
    """Clean latents from noise with the model's default sampler."""
    return sampler(denoiser).sample(denoiser, noise, condition, null, steps, guidance)
