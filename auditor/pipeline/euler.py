"""Euler steps along the velocity of a flow-matching model (Lipman et al., ICLR 2023, arXiv 2210.02747), and back.

Forwards, ``z' = z + (s' - s) v(z, s)`` walks the noise level ``s`` from 1 to 0. Backwards the same equation has ``z``
as its unknown, on both sides: ``z <- z' - (s' - s) v(z, s)``, started from ``z'``, is a fixed-point iteration that
contracts where a step is short against the change of the velocity.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from auditor.errors import UsageError
from auditor.pipeline.conditioning import Conditioning
from auditor.pipeline.denoiser import Denoiser
from auditor.pipeline.sampling import StepHook, guided
from auditor.pipeline.schedule import FlowMatching, fixed_shift

__all__ = ["euler_invert", "euler_sample", "noise_levels"]


@torch.no_grad()
def euler_sample(
    denoiser: Denoiser,
    noise: Tensor,
    condition: Conditioning,
    null: Conditioning,
    steps: int,
    guidance: float,
    on_step: StepHook | None = None,
) -> Tensor:
    """Draws latents deterministically, as the library's pipelines of these families do.

    Args:
        denoiser: evaluated ``steps`` times (on twice as many rows with guidance).
        noise: starting latents (B, C, H, W), unit variance.
        condition: B rows.
        null: B rows, what guidance runs against.
        steps: number of steps.
        guidance: weight of classifier-free guidance.
        on_step: called with (index, nearest position on the schedule, latents) after each step.

    Returns:
        Clean latents (B, C, H, W), float32.

    Raises:
        UsageError: the model is not trained by flow matching, or ``steps`` is impossible.
    """
    schedule = _flow(denoiser)
    latents = noise.float()
    for i, (level, target) in enumerate(pairwise(noise_levels(denoiser, steps, latents))):
        t = schedule.position(level)
        velocity = guided(denoiser, latents, t, condition, null, guidance, "velocity")
        latents = latents + (target - level) * velocity
        if on_step is not None:
            on_step(i, round(t), latents)
    return latents


@torch.no_grad()
def euler_invert(
    denoiser: Denoiser,
    clean: Tensor,
    condition: Conditioning,
    null: Conditioning,
    steps: int,
    guidance: float = 1.0,
    refine: int = 0,
) -> Tensor:
    """Walks :func:`euler_sample` backwards: clean latents to the noise they came from.

    Args:
        denoiser: evaluated ``steps * (1 + refine)`` times.
        clean: (B, C, H, W).
        condition: B rows.
        null: B rows.
        steps: number of steps, of the sampler that is inverted.
        guidance: weight of classifier-free guidance.
        refine: fixed-point iterations of each step beyond the first, which is the plain reverse.

    Returns:
        Noise latents (B, C, H, W), float32.

    Raises:
        UsageError: see :func:`euler_sample`.
    """
    schedule = _flow(denoiser)
    latents = clean.float()
    levels = noise_levels(denoiser, steps, latents)
    for target, level in reversed(list(pairwise(levels))):
        reached = latents
        for _ in range(1 + refine):
            t = schedule.position(target)
            velocity = guided(denoiser, latents, t, condition, null, guidance, "velocity")
            latents = reached - (level - target) * velocity
    return latents


def noise_levels(denoiser: Denoiser, steps: int, latents: Tensor) -> list[float]:
    """The levels that a sampler of ``steps`` steps visits for latents of this shape, from 1 or a little less to 0.

    Shifted as the base's scheduler says, where that depends on the image size too.

    Raises:
        UsageError: no step, or more steps than the schedule has.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler

    total = len(denoiser.schedule)
    if not 1 <= steps <= total:
        raise UsageError(f"{steps} sampler steps are not possible: the base's schedule has 1 to {total}")
    shift = fixed_shift(denoiser.scheduler_config)
    scheduler = denoiser.new_scheduler(FlowMatchEulerDiscreteScheduler, shift=shift)
    denoiser.set_timesteps(scheduler, steps, latents)
    return [float(level) for level in scheduler.sigmas]


def _flow(denoiser: Denoiser) -> FlowMatching:
    if not isinstance(denoiser.schedule, FlowMatching):
        raise UsageError("Euler steps are for flow-matching models; this base is variance preserving")
    return denoiser.schedule
