"""The noise schedule of a diffusion model, and exact conversions between its parameterisations.

With ``z_t = alpha z_0 + sigma eps`` and ``alpha^2 + sigma^2 = 1`` (variance preserving):
``v = alpha eps - sigma z_0`` (Salimans & Ho, ICLR 2022, arXiv 2202.00512).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

__all__ = ["PREDICTION_TYPES", "NoiseSchedule", "Prediction"]

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
"""What a model may predict natively, as schedulers call it."""


@dataclass(frozen=True)
class NoiseSchedule:
    """``alphas_cumprod`` of the training schedule: float32, (T,), falling from about 1 to about 0."""

    alphas_cumprod: Tensor

    @classmethod
    def of(cls, scheduler: Any) -> NoiseSchedule:
        """Reads the schedule off any diffusers scheduler with ``alphas_cumprod``."""
        return cls(scheduler.alphas_cumprod.detach().float().cpu())

    def __len__(self) -> int:
        return len(self.alphas_cumprod)

    def alpha(self, t: Tensor) -> Tensor:
        """Signal coefficient sqrt(alpha_bar) at integer timesteps ``t``, shaped (B, 1, 1, 1)."""
        return self._at(t).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        """Noise coefficient sqrt(1 - alpha_bar), shaped (B, 1, 1, 1)."""
        return (1 - self._at(t)).sqrt()

    def log_snr(self, t: Tensor) -> Tensor:
        """log(alpha^2 / sigma^2), shaped (B, 1, 1, 1)."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def _at(self, t: Tensor) -> Tensor:
        return self.alphas_cumprod.to(t.device)[t].view(-1, 1, 1, 1)


@dataclass(frozen=True)
class Prediction:
    """What a denoiser said, in every parameterisation; each is (B, C, H, W), float32."""

    native: Tensor
    epsilon: Tensor
    velocity: Tensor
    x0: Tensor

    @classmethod
    def convert(
        cls, native: Tensor, kind: str, latents: Tensor, t: Tensor, schedule: NoiseSchedule
    ) -> Prediction:
        """Converts a native prediction.

        Args:
            native: the model's output, (B, C, H, W).
            kind: ``epsilon``, ``v_prediction`` or ``sample``.
            latents: the noisy input the model saw.
            t: int64 (B,), its timesteps.
            schedule: the schedule it was trained with.

        Raises:
            ValueError: for another kind.
        """
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        velocity = None
        match kind:
            case "epsilon":
                epsilon = native
                x0 = (latents - sigma * epsilon) / alpha
            case "v_prediction":
                x0 = alpha * latents - sigma * native
                epsilon = sigma * latents + alpha * native
                velocity = native
            case "sample":
                x0 = native
                epsilon = (latents - alpha * x0) / sigma
            case other:
                raise ValueError(f"unknown prediction type {other!r}")
        return cls(native, epsilon, alpha * epsilon - sigma * x0 if velocity is None else velocity, x0)

    @staticmethod
    def join(parts: Sequence[Prediction]) -> Prediction:
        """Concatenates along the batch."""
        return Prediction(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Prediction)))
