"""Flux.1 (Black Forest Labs, 2024): dev, which is told its guidance weight, and schnell, which has none.

Token states come from T5 alone, the vector from CLIP alone. Two by two latents are packed into one image token; at
our interface latents stay (B, C, H, W).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from auditor.pipeline.families.family import Conditioning, Encoded, Family, vae_factor
from auditor.pipeline.families.flow import flow_shift

if TYPE_CHECKING:
    from auditor.pipeline.components import Components

__all__ = ["FLUX", "pack", "unpack"]

_CLIP, _T5 = "text_encoder", "text_encoder_2"
_TRAIN_STEPS = 1000
_USUAL_GUIDANCE = 3.5
_MAX_SHIFT = 1.15


class _Flux(Family):
    pipeline = "FluxPipeline"
    denoiser = "transformer"
    encoders: ClassVar[Mapping[str, str]] = {_CLIP: "tokenizer", _T5: "tokenizer_2"}
    vector_only = frozenset({_CLIP})
    flow = True
    guidance_distilled = True
    text_length = 512
    key_value_maps = ("attn.add_k_proj", "attn.add_v_proj")
    stem = "context_embedder"

    def name(self, base: Components) -> str:
        return "flux"

    def encode(self, name: str, encoder: Any, ids: Tensor) -> Encoded:
        out = encoder(ids)
        return Encoded(out[0]) if name == _T5 else Encoded(pooled=out.pooler_output)

    def context(self, base: Components, encoded: Mapping[str, Encoded]) -> Tensor:
        if _T5 in encoded:
            states = encoded[_T5].states
            assert states is not None
            return states
        pooled = encoded[_CLIP].pooled
        assert pooled is not None
        return pooled.new_zeros(len(pooled), 0, 0)

    def denoise(self, base: Components, latents: Tensor, time: Tensor, condition: Conditioning) -> Tensor:
        model = base.denoiser_model
        height, width = latents.shape[-2] // 2, latents.shape[-1] // 2
        # Exact in any size, which half precision is not.
        places = _places(height, width).float().to(latents.device)
        guidance = None
        if model.config.guidance_embeds:
            usual = latents.new_full((len(latents),), _USUAL_GUIDANCE, dtype=torch.float32)
            guidance = usual if condition.guidance is None else condition.guidance
        said = model(
            hidden_states=pack(latents),
            timestep=time / _TRAIN_STEPS,
            guidance=guidance,
            encoder_hidden_states=condition.states,
            pooled_projections=condition.pooled,
            txt_ids=places.new_zeros(condition.states.shape[1], 3),
            img_ids=places,
        ).sample
        return unpack(said, height, width)

    def latent_shape(self, base: Components, size: int | None = None) -> tuple[int, int, int]:
        # The transformer knows no size of its own; the autoencoder names the one it was trained for.
        pixels = size or int(base.vae.config.sample_size)
        side = 2 * (pixels // (2 * vae_factor(base)))
        return int(base.denoiser_model.config.in_channels) // 4, side, side

    def patch(self, base: Components) -> int:
        return 2

    def timestep_arguments(
        self, base: Components, scheduler: Any, steps: int, shape: Sequence[int]
    ) -> dict[str, Any]:
        given: dict[str, Any] = {}
        if not scheduler.config.get("use_flow_sigmas"):
            given["sigmas"] = np.linspace(1.0, 1 / steps, steps)
        if scheduler.config.get("use_dynamic_shifting"):
            patches = (shape[-2] // 2) * (shape[-1] // 2)
            given["mu"] = flow_shift(scheduler.config, patches, _MAX_SHIFT)
        return given


FLUX = _Flux()


def pack(latents: Tensor) -> Tensor:
    """(B, C, H, W) to image tokens (B, H/2 W/2, 4C), rows first, channels slowest within a token."""
    batch, channels, height, width = latents.shape
    squares = latents.reshape(batch, channels, height // 2, 2, width // 2, 2)
    return squares.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * 4)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse of :func:`pack`, for ``height`` by ``width`` tokens."""
    batch, _, channels = tokens.shape
    squares = tokens.reshape(batch, height, width, channels // 4, 2, 2)
    return squares.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels // 4, 2 * height, 2 * width)


def _places(height: int, width: int) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3)
