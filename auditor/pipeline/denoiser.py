"""One denoiser for every family: epsilon, velocity and x0 of the model's native prediction."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from auditor.pipeline.components import Components
from auditor.pipeline.conditioning import Conditioning
from auditor.pipeline.schedule import FLOW_PREDICTION, NoiseSchedule, Prediction

__all__ = ["Denoiser"]


class Denoiser:
    """The denoising network with the weights as they stand.

    ``calls`` counts evaluations of one latent, the unit in which reports state cost.
    """

    def __init__(self, components: Components) -> None:
        self._components = components
        self.calls = 0

    @property
    def schedule(self) -> NoiseSchedule:
        """The training noise schedule."""
        return self._components.schedule

    @property
    def scheduler_config(self) -> Any:
        """How the base's own scheduler is configured."""
        return self._components.scheduler.config

    def new_scheduler(self, cls: type, **changed: Any) -> Any:
        """A fresh scheduler of ``cls``, configured as the base's own, but for what is ``changed``."""
        return self._components.new_scheduler(cls, **changed)

    def set_timesteps(self, scheduler: Any, steps: int, latents: Tensor) -> None:
        """Sets a scheduler's timesteps as the base's own pipeline does for latents of this shape."""
        kind = self._components.kind
        given = kind.timestep_arguments(self._components, scheduler, steps, latents.shape)
        scheduler.set_timesteps(steps, device=latents.device, **given)

    def add_noise(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """``alpha(t) clean + sigma(t) noise``; (B, C, H, W), ``t`` int64 (B,)."""
        return self.schedule.alpha(t) * clean + self.schedule.sigma(t) * noise

    def predict(self, latents: Tensor, t: Tensor, condition: Conditioning) -> Prediction:
        """Evaluates the denoiser once.

        Args:
            latents: noisy latents (B, C, H, W).
            t: (B,) positions on the schedule, 0..T-1; they may be fractional.
            condition: B rows.

        Returns:
            All parameterisations, float32.
        """
        kind = str(self.scheduler_config.get("prediction_type", FLOW_PREDICTION))
        native = self.native(latents, t, condition)
        return Prediction.convert(native, kind, latents.float(), t, self.schedule)

    def native(self, latents: Tensor, t: Tensor, condition: Conditioning) -> Tensor:
        """What the network itself says, float32: all that training needs. Arguments as for :meth:`predict`."""
        self.calls += len(latents)
        components = self._components
        time = self.schedule.model_time(t)
        at = condition.at(t, len(self.schedule))
        return components.kind.denoise(components, latents.to(components.dtype), time, at).float()
