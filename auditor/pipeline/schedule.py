"""The noise schedule of a diffusion model, and exact conversions between its parameterisations.

Two kinds, each with a position ``t`` from 0 to T-1 on the training grid and ``z_t = alpha z_0 + sigma eps``:

- variance preserving, ``alpha^2 + sigma^2 = 1``, with ``v = alpha eps - sigma z_0`` (Salimans & Ho, ICLR 2022,
  arXiv 2202.00512);
- flow matching along straight lines, ``alpha = 1 - sigma``, with ``v = eps - z_0`` (Lipman et al., ICLR 2023,
  arXiv 2210.02747; Esser et al., ICML 2024, arXiv 2403.03206).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

__all__ = [
    "FLOW_PREDICTION",
    "PREDICTION_TYPES",
    "FlowMatching",
    "NoiseSchedule",
    "Prediction",
    "VariancePreserving",
    "fixed_shift",
]

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
"""What a variance-preserving model may predict natively, as schedulers call it."""
FLOW_PREDICTION = "flow_prediction"
"""What a flow-matching model predicts natively."""


class NoiseSchedule(ABC):
    """How much signal and noise there is at position ``t`` of the training grid, 0 to T-1."""

    velocity_type: ClassVar[str]
    """The prediction type under which a model predicts this schedule's velocity."""

    @staticmethod
    def of(scheduler: Any) -> NoiseSchedule:
        """Reads the schedule off any diffusers scheduler, of either kind."""
        config = scheduler.config
        if config.get("prediction_type", FLOW_PREDICTION) == FLOW_PREDICTION:
            return FlowMatching.of(config)
        return VariancePreserving(scheduler.alphas_cumprod.detach().float().cpu())

    @abstractmethod
    def __len__(self) -> int:
        """T, the number of positions."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Signal coefficient at positions ``t`` (B,), shaped (B, 1, 1, 1)."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Noise coefficient at positions ``t`` (B,), shaped (B, 1, 1, 1)."""

    @abstractmethod
    def model_time(self, t: Tensor) -> Tensor:
        """What the model is told in place of positions ``t`` (B,)."""

    @abstractmethod
    def velocity(self, epsilon: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        """The velocity that noise and clean latents amount to."""

    @abstractmethod
    def split(self, latents: Tensor, velocity: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Noise and clean latents (epsilon, x0) from noisy latents and a velocity."""

    def log_snr(self, t: Tensor) -> Tensor:
        """log(alpha^2 / sigma^2), shaped (B, 1, 1, 1); minus infinity where no signal is left."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())


@dataclass(frozen=True)
class VariancePreserving(NoiseSchedule):
    """``alphas_cumprod`` of the training schedule: float32, (T,), falling from about 1 to about 0.

    Fractional positions take the nearest whole one, except in what the model is told.
    """

    alphas_cumprod: Tensor
    velocity_type = "v_prediction"

    def __len__(self) -> int:
        return len(self.alphas_cumprod)

    def alpha(self, t: Tensor) -> Tensor:
        """sqrt(alpha_bar)."""
        return self._at(t).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        """sqrt(1 - alpha_bar)."""
        return (1 - self._at(t)).sqrt()

    def model_time(self, t: Tensor) -> Tensor:
        """The position itself."""
        return t

    def velocity(self, epsilon: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        """``alpha eps - sigma x0``."""
        return self.alpha(t) * epsilon - self.sigma(t) * x0

    def split(self, latents: Tensor, velocity: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """``eps = sigma z + alpha v``, ``x0 = alpha z - sigma v``."""
        alpha, sigma = self.alpha(t), self.sigma(t)
        return sigma * latents + alpha * velocity, alpha * latents - sigma * velocity

    def _at(self, t: Tensor) -> Tensor:
        whole = t.round().long() if t.is_floating_point() else t
        return self.alphas_cumprod.to(t.device)[whole].view(-1, 1, 1, 1)


@dataclass(frozen=True)
class FlowMatching(NoiseSchedule):
    """Straight lines from clean latents to noise.

    Position ``t`` has the noise level ``sigma = shift u / (1 + (shift - 1) u)`` with ``u = (t + 1) / T``: the grid
    that the library's flow-matching schedulers train on. Positions may be fractional.

    Attributes:
        steps: T.
        shift: how far the grid is pushed towards noise (3 in SD3). 1 where a sampler shifts by image size: that
            belongs to the sampler's choice of steps, not to the grid.
    """

    steps: int = 1000
    shift: float = 1.0
    velocity_type = FLOW_PREDICTION

    @classmethod
    def of(cls, config: Any) -> FlowMatching:
        """Reads the grid off a scheduler's configuration."""
        steps = int(config.get("num_train_timesteps", 1000))
        return cls(steps, 1.0 if config.get("use_dynamic_shifting") else fixed_shift(config))

    def __len__(self) -> int:
        return self.steps

    def level(self, t: Tensor) -> Tensor:
        """The noise level at positions ``t``, float32, in the shape of ``t``."""
        even = (t.float() + 1) / self.steps
        return self.shift * even / (1 + (self.shift - 1) * even)

    def position(self, sigma: float) -> float:
        """The position at which the noise level is ``sigma``; below 0 for less than the grid's least."""
        return self.steps * sigma / (self.shift - (self.shift - 1) * sigma) - 1

    def alpha(self, t: Tensor) -> Tensor:
        """``1 - sigma``."""
        return 1 - self.sigma(t)

    def sigma(self, t: Tensor) -> Tensor:
        """:meth:`level`, for latents."""
        return self.level(t).view(-1, 1, 1, 1)

    def model_time(self, t: Tensor) -> Tensor:
        """``T sigma``."""
        return self.level(t) * self.steps

    def velocity(self, epsilon: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        """``eps - x0``."""
        return epsilon - x0

    def split(self, latents: Tensor, velocity: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """``eps = z + (1 - sigma) v``, ``x0 = z - sigma v``."""
        return latents + self.alpha(t) * velocity, latents - self.sigma(t) * velocity


def fixed_shift(config: Any) -> float:
    """The shift that does not depend on image size, under either name that schedulers have for it."""
    return float(config.get("shift") or config.get("flow_shift") or 1.0)


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
            kind: ``epsilon``, ``sample`` or the schedule's own velocity (``v_prediction``, ``flow_prediction``).
            latents: the noisy input the model saw.
            t: (B,), its positions on the schedule.
            schedule: the schedule it was trained with.

        Raises:
            ValueError: for another kind.
        """
        if kind == schedule.velocity_type:
            epsilon, x0 = schedule.split(latents, native, t)
            return cls(native, epsilon, native, x0)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        match kind:
            case "epsilon":
                epsilon, x0 = native, (latents - sigma * native) / alpha
            case "sample":
                epsilon, x0 = (latents - alpha * native) / sigma, native
            case other:
                raise ValueError(f"unknown prediction type {other!r}")
        return cls(native, epsilon, schedule.velocity(epsilon, x0, t), x0)

    @staticmethod
    def join(parts: Sequence[Prediction]) -> Prediction:
        """Concatenates along the batch."""
        return Prediction(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Prediction)))
