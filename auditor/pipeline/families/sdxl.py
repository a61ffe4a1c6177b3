"""Stable Diffusion XL (Podell et al., 2023, arXiv 2307.01952).

The last-but-one states of two CLIP encoders are joined by width; the second one's projected end of text, and the
image size, condition the model as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from auditor.pipeline.families.family import Conditioning, Encoded, Family, vae_factor

if TYPE_CHECKING:
    from auditor.pipeline.components import Components

__all__ = ["SDXL"]


class _StableDiffusionXL(Family):
    pipeline = "StableDiffusionXLPipeline"
    denoiser = "unet"
    encoders: ClassVar[Mapping[str, str]] = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
    zero_null = True

    def name(self, base: Components) -> str:
        return "sdxl"

    def encode(self, name: str, encoder: Any, ids: Tensor) -> Encoded:
        out = encoder(ids, output_hidden_states=True)
        return Encoded(out.hidden_states[-2], out[0] if name == "text_encoder_2" else None)

    def context(self, base: Components, encoded: Mapping[str, Encoded]) -> Tensor:
        return torch.cat([one.states for one in encoded.values() if one.states is not None], dim=-1)

    def denoise(self, base: Components, latents: Tensor, time: Tensor, condition: Conditioning) -> Tensor:
        height, width = (side * vae_factor(base) for side in latents.shape[-2:])
        # Original size, crop and target size: as for an image that was never scaled or cropped.
        sizes = [[height, width, 0, 0, height, width]]
        ids = torch.tensor(sizes, device=latents.device, dtype=base.dtype)
        added = {"text_embeds": condition.pooled, "time_ids": ids.expand(len(latents), -1)}
        said: Tensor = base.denoiser_model(
            latents, time, encoder_hidden_states=condition.states, added_cond_kwargs=added
        ).sample
        return said


SDXL = _StableDiffusionXL()
