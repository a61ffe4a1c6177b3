"""Stable Diffusion 1 and 2 (Rombach et al., CVPR 2022, arXiv 2112.10752), and the embedded base."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from auditor.pipeline.families.family import Conditioning, Encoded, Family

if TYPE_CHECKING:
    from auditor.pipeline.components import Components

__all__ = ["SD"]

_BY_WIDTH = {768: "sd1", 1024: "sd2", 192: "embedded"}


class _StableDiffusion(Family):
    pipeline = "StableDiffusionPipeline"
    denoiser = "unet"
    encoders: ClassVar[Mapping[str, str]] = {"text_encoder": "tokenizer"}

    def name(self, base: Components) -> str:
        return _BY_WIDTH.get(int(base.denoiser_model.config.cross_attention_dim), "other")

    def encode(self, name: str, encoder: Any, ids: Tensor) -> Encoded:
        return Encoded(encoder(ids).last_hidden_state)

    def context(self, base: Components, encoded: Mapping[str, Encoded]) -> Tensor:
        states = encoded["text_encoder"].states
        assert states is not None
        return states

    def denoise(self, base: Components, latents: Tensor, time: Tensor, condition: Conditioning) -> Tensor:
        said: Tensor = base.denoiser_model(latents, time, encoder_hidden_states=condition.states).sample
        return said


SD = _StableDiffusion()
