"""Samplers that take few steps, or draw noise on the way, in place of the one that a detector inverts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from auditor.errors import UsageError

if TYPE_CHECKING:
    from auditor.pipeline.view import View

__all__ = ["SAMPLERS", "sampled"]

SAMPLERS = {
    "dpmpp": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "euler_ancestral": "EulerAncestralDiscreteScheduler",
    "lcm": "LCMScheduler",
}
"""Short name to scheduler class; the last two draw noise in every step, after which little can be inverted."""


def sampled(
    view: View,
    prompts: Sequence[str],
    noise: Tensor,
    seeds: Sequence[int],
    *,
    sampler: str,
    steps: int,
    guidance: float,
) -> Tensor:
    """Pictures drawn from marked noise by another sampler.

    Args:
        view: the model.
        prompts: B.
        noise: (B, C, h, w), marked.
        seeds: B, of the noise that the sampler itself draws.
        sampler: of :data:`SAMPLERS`.
        steps: of the sampler.
        guidance: classifier-free guidance weight.

    Returns:
        (B, 3, H, W) in [-1, 1].

    Raises:
        UsageError: no such sampler, or one that is not for a base trained by flow matching.
    """
    import diffusers

    from auditor.pipeline.schedule import FlowMatching

    if sampler not in SAMPLERS:
        raise UsageError(f"there is no sampler '{sampler}' here; there are {', '.join(SAMPLERS)}")
    if isinstance(view.schedule, FlowMatching):
        raise UsageError(
            f"{sampler} is for variance-preserving models; this base is trained by flow matching"
        )
    scheduler: Any = view.components.new_scheduler(getattr(diffusers, SAMPLERS[sampler]))
    return view.sample(prompts, seeds, steps=steps, guidance=guidance, scheduler=scheduler, noise=noise)
