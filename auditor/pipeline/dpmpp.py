"""DPM-Solver++(2M) for variance-preserving models, and its inverse.

The solver (Lu et al., 2022, arXiv 2211.01095) works on the clean latents ``D`` that the model predicts. With
``lambda = log(alpha / sigma)`` and ``h`` its increase over a step,

    z' = (sigma' / sigma) z + alpha' (1 - exp(-h)) ((1 + c) D - c D_before),   c = h / (2 h_before),

where the first and the last step have ``c = 0``. The inverse solves each step for ``z`` by backward Euler (Hong et
al., "On Exact Inversion of DPM-Solvers", CVPR 2024): written in epsilon, ``D = (z - sigma eps(z)) / alpha``, the
unknown is the fixed point of a map that contracts for short steps, and that stays defined in the last one, where
``sigma' = 0``. ``D_before`` belongs to a latent that is not known yet. Where the paper estimates it by many fine
first-order steps, we sweep over the whole trajectory again and again and take it from the sweep before: the trajectory
that the sampler took is the fixed point of that.

The long last step draws ``D`` itself, from which a good denoiser has removed the noise: what it no longer depends on
cannot be found again by any inverse. Latents that are inverted and drawn again are then close to what they were, while
the noise is not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from auditor.errors import UsageError
from auditor.pipeline.conditioning import Conditioning
from auditor.pipeline.denoiser import Denoiser
from auditor.pipeline.sampling import StepHook, guided_noise, variance_preserving

__all__ = ["dpmpp_invert", "dpmpp_sample"]


@dataclass(frozen=True)
class _Step:
    """``z' = keep z + (now) D - (before) D_before``, evaluated at ``t`` where ``z = alpha D + sigma eps``."""

    t: int
    alpha: float
    sigma: float
    keep: float
    now: float
    before: float


@torch.no_grad()
def dpmpp_sample(
    denoiser: Denoiser,
    noise: Tensor,
    condition: Conditioning,
    null: Conditioning,
    steps: int,
    guidance: float,
    on_step: StepHook | None = None,
) -> Tensor:
    """Draws latents with the second-order multistep solver (midpoint form, first order at both ends).

    Args:
        denoiser: evaluated ``steps`` times (on twice as many rows with guidance).
        noise: starting latents (B, C, H, W), unit variance.
        condition: B rows.
        null: B rows, the empty prompt.
        steps: number of steps; where they lie is the base's scheduler's own spacing.
        guidance: weight w.
        on_step: called with (index, timestep, latents) after each step.

    Returns:
        Clean latents (B, C, H, W), float32.

    Raises:
        UsageError: the model is not variance preserving, or ``steps`` is impossible.
    """
    latents, before = noise.float(), None
    for i, step in enumerate(_steps(denoiser, steps)):
        epsilon = guided_noise(denoiser, latents, step.t, condition, null, guidance)
        clean = (latents - step.sigma * epsilon) / step.alpha
        latents = step.keep * latents + step.now * clean
        if before is not None:
            latents = latents - step.before * before
        before = clean
        if on_step is not None:
            on_step(i, step.t, latents)
    return latents


@torch.no_grad()
def dpmpp_invert(
    denoiser: Denoiser,
    clean: Tensor,
    condition: Conditioning,
    null: Conditioning,
    steps: int,
    guidance: float = 1.0,
    refine: int = 0,
) -> Tensor:
    """Runs :func:`dpmpp_sample` backwards: clean latents to the noise they came from.

    Args:
        denoiser: evaluated ``steps * (1 + 2 refine)`` times.
        clean: (B, C, H, W).
        condition: B rows.
        null: B rows.
        steps: number of steps, of the sampler that is inverted.
        guidance: weight w.
        refine: fixed-point iterations of each first-order step beyond the first, and then sweeps with the
            second-order terms in. 0 is the plain first-order inverse.

    Returns:
        Noise latents (B, C, H, W), float32.

    Raises:
        UsageError: see :func:`dpmpp_sample`.
    """
    plan = _steps(denoiser, steps)
    # Latents at each step and the clean ones predicted there, as the last sweep found them.
    found: list[tuple[Tensor, Tensor]] = []
    pace = torch.ones(len(clean), 1, 1, 1, device=clean.device)
    last = torch.full_like(pace, torch.inf)
    for sweep in range(1 + refine):
        latents, fresh, moved = clean.float(), [], torch.zeros_like(pace)
        for i, step in reversed(list(enumerate(plan))):
            now, reached, guess = step.now - step.before, latents, latents
            if sweep:
                guess = found[i][0]
            if sweep and i:
                now, reached = step.now, latents + step.before * found[i - 1][1]
            for _ in range(1 if sweep else 1 + refine):
                epsilon = guided_noise(denoiser, guess, step.t, condition, null, guidance)
                noisy = reached + now * step.sigma / step.alpha * epsilon
                move = noisy / (step.keep + now / step.alpha) - guess
                latents = guess = guess + pace * move
            moved += move.square().sum((1, 2, 3), keepdim=True)
            fresh.append((latents, (latents - step.sigma * epsilon) / step.alpha))
        # Neighbouring steps correct each other: a row in which they overshoot goes on with half the pace.
        if sweep:
            pace = torch.where(moved > last, pace / 2, pace)
            last = moved
        found = fresh[::-1]
    return latents


def _steps(denoiser: Denoiser, steps: int) -> list[_Step]:
    alphas = variance_preserving(denoiser, "DPM-Solver++").alphas_cumprod
    times = _times(denoiser.scheduler_config, len(alphas), steps)
    bars = [float(alphas[t]) for t in times]
    levels = [(math.sqrt(bar), math.sqrt(1 - bar)) for bar in bars]
    logs = [math.log(alpha / sigma) for alpha, sigma in levels]
    plan = []
    for i, ((alpha, sigma), t) in enumerate(zip(levels, times, strict=True)):
        if i + 1 == len(times):
            plan.append(_Step(t, alpha, sigma, keep=0.0, now=1.0, before=0.0))
            break
        to_alpha, to_sigma = levels[i + 1]
        grown = logs[i + 1] - logs[i]
        weight = -to_alpha * math.expm1(-grown)
        ratio = grown / (2 * (logs[i] - logs[i - 1])) if i else 0.0
        plan.append(_Step(t, alpha, sigma, to_sigma / sigma, weight * (1 + ratio), weight * ratio))
    return plan


def _times(config: Any, total: int, steps: int) -> list[int]:
    """Positions of the steps, largest first, under the base's spacing (arXiv 2305.08891, table 2).

    As the library's solver has them: with an end of the grid left out under two of the three spacings.
    """
    # Two positions of the grid to a step: spacings with an offset end beyond it otherwise.
    if not 1 <= steps <= total // 2:
        raise UsageError(f"{steps} solver steps are not possible: the base's schedule has 1 to {total // 2}")
    match config.get("timestep_spacing", "linspace"):
        case "leading":
            stride = total // (steps + 1)
            return [i * stride + int(config.get("steps_offset", 0)) for i in range(steps, 0, -1)]
        case "trailing":
            return [round(total - i * total / steps) - 1 for i in range(steps)]
        case _:
            return [round(i * (total - 1) / steps) for i in range(steps, 0, -1)]
