"""DPM-Solver++(2M) for variance-preserving models, and its inverse.

The solver (Lu et al., 2022, arXiv 2211.01095) works on the clean latents ``D`` that the model predicts. With
``lambda = log(alpha / sigma)`` and ``h`` its increase over a step,

    z' = (sigma' / sigma) z + alpha' (1 - exp(-h)) ((1 + c) D - c D_before),   c = h / (2 h_before),

where the first and the last step have ``c = 0``. The inverse solves each step for ``z`` by backward Euler (Hong et
al., "On Exact Inversion of DPM-Solvers", CVPR 2024): written in epsilon, ``D = (z - sigma eps(z)) / alpha``, the
unknown is the fixed point of a map that contracts for short steps, and that stays defined in the last one, where
``sigma' = 0``. ``D_before`` belongs to a latent that is not known yet. Where the paper estimates it by many fine first-order
steps, we take it from the last sweep over the whole trajectory and sweep again: the exact trajectory is the fixed point.
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
        denoiser: evaluated ``steps * (2 + refine)`` times.
        clean: (B, C, H, W).
        condition: B rows.
        null: B rows.
        steps: number of steps, of the sampler that is inverted.
        guidance: weight w.
        refine: sweeps over the trajectory, one iteration of every step each, beyond the two that it takes at least.

    Returns:
        Noise latents (B, C, H, W), float32.

    Raises:
        UsageError: see :func:`dpmpp_sample`.
    """
    plan = _steps(denoiser, steps)
    # What the last sweep found at each step: the latents it starts from, and the clean ones predicted there.
    found: list[tuple[Tensor, Tensor] | None] = [None] * len(plan)
    for _ in range(2 + refine):
        sweep, latents = list(found), clean.float()
        for i, step in reversed(list(enumerate(plan))):
            before, mine = found[i - 1] if i else None, found[i]
            now = step.now if before is not None else step.now - step.before
            reached = latents if before is None else latents + step.before * before[1]
            guess = latents if mine is None else mine[0]
            epsilon = guided_noise(denoiser, guess, step.t, condition, null, guidance)
            noisy = reached + now * step.sigma / step.alpha * epsilon
            latents = noisy / (step.keep + now / step.alpha)
            sweep[i] = latents, (latents - step.sigma * epsilon) / step.alpha
        found = sweep
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
    """Positions of the steps, largest first, under the base's spacing (Lin et al., WACV 2024, arXiv 2305.08891, table 2).

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
