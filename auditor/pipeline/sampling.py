"""Noise, guidance, sampling with any diffusers scheduler, and deterministic DDIM with its inverse.

Every image has its own noise from its own seed, so that what is drawn does not depend on the batch it was
drawn in, and tuned and base can be compared under common random numbers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from auditor.errors import UsageError
from auditor.pipeline.conditioning import Conditioning
from auditor.pipeline.denoiser import Denoiser
from auditor.pipeline.schedule import FLOW_PREDICTION, FlowMatching, VariancePreserving

__all__ = [
    "StepHook",
    "ddim_invert",
    "ddim_sample",
    "guided",
    "guided_noise",
    "scheduler_sample",
    "seeded_noise",
    "variance_preserving",
]

StepHook = Callable[[int, int, Tensor], None]


def seeded_noise(shape: Sequence[int], seeds: Sequence[int]) -> Tensor:
    """One standard normal latent a seed, made on the CPU whatever the device: float32 (len(seeds), *shape)."""
    return torch.stack(
        [torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    )


def guided(
    denoiser: Denoiser,
    latents: Tensor,
    t: float,
    condition: Conditioning,
    null: Conditioning,
    guidance: float,
    said: str,
) -> Tensor:
    """Classifier-free guidance (Ho & Salimans, 2022), ``null + w (cond - null)``; one pass at w = 1.

    Args:
        denoiser: evaluated once, on twice as many rows with guidance.
        latents: (B, C, H, W).
        t: position on the schedule.
        condition: B rows.
        null: B rows.
        guidance: weight w.
        said: the parameterisation to guide, a field of ``Prediction``.
    """
    steps = torch.full((len(latents),), t, device=latents.device)
    if guidance == 1.0:
        alone: Tensor = getattr(denoiser.predict(latents, steps, condition), said)
        return alone
    both = denoiser.predict(
        torch.cat([latents, latents]), torch.cat([steps, steps]), Conditioning.join([null, condition])
    )
    without, given = getattr(both, said).chunk(2)
    mixed: Tensor = without + guidance * (given - without)
    return mixed


def guided_noise(
    denoiser: Denoiser, latents: Tensor, t: int, condition: Conditioning, null: Conditioning, guidance: float
) -> Tensor:
    """:func:`guided` on epsilon."""
    return guided(denoiser, latents, t, condition, null, guidance, "epsilon")


def variance_preserving(denoiser: Denoiser, method: str) -> VariancePreserving:
    """The schedule of a variance-preserving model.

    Raises:
        UsageError: the model is trained by flow matching; ``method`` is named.
    """
    if not isinstance(denoiser.schedule, VariancePreserving):
        raise UsageError(f"{method} is for variance-preserving models; this base is trained by flow matching")
    return denoiser.schedule


def ddim_timesteps(total: int, steps: int) -> list[int]:
    """Evenly spaced timesteps, largest first, ending above 0 ("leading" spacing with an offset of one).

    Raises:
        UsageError: no step, or more steps than the schedule has.
    """
    if not 1 <= steps <= total:
        raise UsageError(f"{steps} sampler steps are not possible: the base's schedule has 1 to {total}")
    stride = total // steps
    return [min(i * stride + 1, total - 1) for i in reversed(range(steps))]


@torch.no_grad()
def ddim_sample(
    denoiser: Denoiser,
    noise: Tensor,
    condition: Conditioning,
    null: Conditioning,
    steps: int,
    guidance: float,
    on_step: StepHook | None = None,
) -> Tensor:
    """Deterministic DDIM (Song et al., ICLR 2021, arXiv 2010.02502, eta = 0).

    Args:
        denoiser: evaluated ``steps`` times (twice as many rows with guidance).
        noise: starting latents (B, C, H, W), unit variance.
        condition: B rows.
        null: B rows, the empty prompt.
        steps: number of steps.
        guidance: weight w.
        on_step: called with (index, timestep, latents) after each step.

    Returns:
        Clean latents (B, C, H, W), float32.
    """
    times = ddim_timesteps(len(denoiser.schedule), steps)
    return _walk(denoiser, noise, times, [*times[1:], None], condition, null, guidance, on_step)


@torch.no_grad()
def ddim_invert(
    denoiser: Denoiser,
    clean: Tensor,
    condition: Conditioning,
    null: Conditioning,
    steps: int,
    guidance: float = 1.0,
    refine: int = 0,
) -> Tensor:
    """Runs DDIM backwards: clean latents to the noise they came from.

    Approximately, unless ``refine`` fixed-point iterations a step make up for the noise that the usual explicit
    inverse estimates one level too low.
    """
    up = ddim_timesteps(len(denoiser.schedule), steps)[::-1]
    latents = clean.float()
    schedule = variance_preserving(denoiser, "DDIM")
    for i, t in enumerate(up):
        here = _coefficients(schedule.alphas_cumprod, up[i - 1] if i else None)
        there = _coefficients(schedule.alphas_cumprod, t)
        reached = latents
        for iteration in range(1 + refine):
            # The noise at the next level is estimated at the present one, which is the usual explicit inverse.
            seen = t if iteration or not i else up[i - 1]
            epsilon = guided_noise(denoiser, latents, seen, condition, null, guidance)
            x0 = (reached - here[1] * epsilon) / here[0]
            latents = there[0] * x0 + there[1] * epsilon
    return latents


def _walk(
    denoiser: Denoiser,
    latents: Tensor,
    times: Sequence[int],
    targets: Sequence[int | None],
    condition: Conditioning,
    null: Conditioning,
    guidance: float,
    on_step: StepHook | None,
) -> Tensor:
    alphas = variance_preserving(denoiser, "DDIM").alphas_cumprod
    latents = latents.float()
    for i, (t, target) in enumerate(zip(times, targets, strict=True)):
        epsilon = guided_noise(denoiser, latents, t, condition, null, guidance)
        alpha, sigma = _coefficients(alphas, t)
        x0 = (latents - sigma * epsilon) / alpha
        to_alpha, to_sigma = _coefficients(alphas, target)
        latents = to_alpha * x0 + to_sigma * epsilon
        if on_step is not None:
            on_step(i, t, latents)
    return latents


def _coefficients(alphas: Tensor, t: int | None) -> tuple[float, float]:
    bar = 1.0 if t is None else float(alphas[t])
    return bar**0.5, (1 - bar) ** 0.5


@torch.no_grad()
def scheduler_sample(
    denoiser: Denoiser,
    scheduler: Any,
    noise: Tensor,
    condition: Conditioning,
    null: Conditioning,
    steps: int,
    guidance: float,
    generators: Sequence[torch.Generator] | None = None,
) -> Tensor:
    """Samples with any diffusers scheduler, which gets the prediction in the type it is configured for.

    Args:
        denoiser: evaluated at every timestep of the scheduler.
        scheduler: a fresh one; its state changes.
        noise: starting latents (B, C, H, W), unit variance.
        condition: B rows.
        null: B rows, the empty prompt.
        steps: number of steps.
        guidance: weight w.
        generators: B, one an image, on the CPU, for schedulers that draw noise in every step.

    Returns:
        Clean latents (B, C, H, W), float32.
    """
    denoiser.set_timesteps(scheduler, steps, noise)
    latents = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    said = _FIELD[str(scheduler.config.get("prediction_type", FLOW_PREDICTION))]
    draws = "generator" in inspect.signature(scheduler.step).parameters and generators is not None
    scale = getattr(scheduler, "scale_model_input", lambda seen, _: seen)
    for t in scheduler.timesteps:
        scaled = scale(latents, t)
        times = _position(denoiser, t).expand(len(latents))
        given = getattr(denoiser.predict(scaled, times, condition), said)
        if guidance != 1.0:
            without = getattr(denoiser.predict(scaled, times, null), said)
            given = without + guidance * (given - without)
        step = scheduler.step(given, t, latents, **({"generator": list(generators or ())} if draws else {}))
        latents = step.prev_sample
    clean: Tensor = latents.float()
    return clean


def _position(denoiser: Denoiser, time: Tensor) -> Tensor:
    """The position on the schedule of what a scheduler calls a timestep."""
    schedule = denoiser.schedule
    if isinstance(schedule, FlowMatching):
        return time.new_tensor(schedule.position(float(time) / len(schedule)), dtype=torch.float32)
    return time


_FIELD = {"epsilon": "epsilon", "v_prediction": "velocity", "sample": "x0", FLOW_PREDICTION: "velocity"}
