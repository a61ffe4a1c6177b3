"""One denoiser for every family: epsilon, velocity and x0 of the model's native prediction."""

from __future__ import annotations

import torch
from torch import Tensor

from auditor.pipeline.components import Components
from auditor.pipeline.conditioning import Conditioning
from auditor.pipeline.schedule import NoiseSchedule, Prediction

__all__ = ["Denoiser"]


class Denoiser:
    """The UNet with the weights as they stand.

    ``calls`` counts evaluations of one latent, the unit in which reports state cost.
    """

    def __init__(self, components: Components) -> None:
        self._components = components
        self.calls = 0

    @property
    def schedule(self) -> NoiseSchedule:
        """The training noise schedule."""
        return self._components.schedule

    def add_noise(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """``alpha(t) clean + sigma(t) noise``; (B, C, H, W), ``t`` int64 (B,)."""
        return self.schedule.alpha(t) * clean + self.schedule.sigma(t) * noise

    def predict(self, latents: Tensor, t: Tensor, condition: Conditioning) -> Prediction:
        """Evaluates the denoiser once.

        Args:
            latents: noisy latents (B, C, H, W).
            t: (B,) timesteps in 0..T-1; where fractional, the conversions take the nearest whole one.
            condition: B rows.

        Returns:
            All parameterisations, float32.
        """
        self.calls += len(latents)
        components = self._components
        added = None
        if components.family == "sdxl":
            height, width = (
                side * 2 ** (len(components.vae.config.block_out_channels) - 1) for side in latents.shape[-2:]
            )
            ids = torch.tensor(
                [[height, width, 0, 0, height, width]], device=latents.device, dtype=components.dtype
            )
            added = {"text_embeds": condition.pooled, "time_ids": ids.expand(len(latents), -1)}
        native = components.unet(
            latents.to(components.dtype), t, encoder_hidden_states=condition.states, added_cond_kwargs=added
        ).sample.float()
        kind = str(components.scheduler.config.prediction_type)
        return Prediction.convert(native, kind, latents.float(), t.round().long(), self.schedule)
