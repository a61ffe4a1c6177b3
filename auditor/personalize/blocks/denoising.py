"""One training step of a denoiser: what is drawn, what the model should have said, and how far off it was."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from auditor.pipeline.components import Components
from auditor.pipeline.conditioning import Conditioning
from auditor.pipeline.denoiser import Denoiser

__all__ = ["Drawn", "denoising_error", "draw", "mean_square", "native_target"]


@dataclass(frozen=True)
class Drawn:
    """A batch of noisy latents and what it was made of.

    Attributes:
        rows: int64 (B,), which example each came from.
        clean: (B, C, h, w).
        noise: (B, C, h, w), standard normal.
        t: int64 (B,), timesteps.
        noisy: (B, C, h, w).
    """

    rows: Tensor
    clean: Tensor
    noise: Tensor
    t: Tensor
    noisy: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    @staticmethod
    def join(parts: list[Drawn]) -> Drawn:
        """Concatenates along the batch; rows keep meaning what they meant."""
        return Drawn(*(torch.cat([getattr(part, name) for part in parts]) for name in Drawn.__dataclass_fields__))


def draw(
    base: Components,
    latents: Tensor,
    batch: int,
    generator: torch.Generator,
    low: float = 0.0,
    high: float = 1.0,
) -> Drawn:
    """Draws examples with replacement, uniform timesteps and noise.

    Args:
        base: whose schedule is used.
        latents: clean examples (N, C, h, w).
        batch: B.
        generator: on the CPU.
        low: the least timestep, as a share of the schedule.
        high: the share below which timesteps lie.
    """
    rows = torch.randint(len(latents), (batch,), generator=generator)
    steps = len(base.schedule)
    first, last = int(low * steps), max(int(low * steps) + 1, int(high * steps))
    noise = torch.randn((batch, *latents.shape[1:]), generator=generator).to(latents.device)
    t = torch.randint(first, last, (batch,), generator=generator).to(latents.device)
    clean = latents[rows]
    return Drawn(rows, clean, noise, t, Denoiser(base).add_noise(clean, noise, t))


def native_target(base: Components, drawn: Drawn) -> Tensor:
    """What the model is trained to predict, in its own parameterisation (B, C, h, w)."""
    alpha, sigma = base.schedule.alpha(drawn.t), base.schedule.sigma(drawn.t)
    match str(base.scheduler.config.get("prediction_type", "flow")):
        case "epsilon":
            return drawn.noise
        case "v_prediction":
            return alpha * drawn.noise - sigma * drawn.clean
        case "sample":
            return drawn.clean
        case _:
            return drawn.noise - drawn.clean


def denoising_error(base: Components, drawn: Drawn, condition: Conditioning) -> Tensor:
    """Prediction minus target (B, C, h, w), float32, with gradients."""
    return Denoiser(base).native(drawn.noisy, drawn.t, condition) - native_target(base, drawn)


def mean_square(error: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean square of each row (B,), over all values or over those that a mask (B, 1, h, w) in [0, 1] keeps."""
    if mask is None:
        return error.square().mean((1, 2, 3))
    kept = mask.expand_as(error)
    return (kept * error.square()).sum((1, 2, 3)) / kept.sum((1, 2, 3)).clamp_min(1.0)
