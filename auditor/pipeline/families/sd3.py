"""Stable Diffusion 3 and 3.5 (Esser et al., ICML 2024, arXiv 2403.03206).

The token states of two CLIP encoders, joined by width and padded to T5's, stand in front of T5's in one sequence; the
projected ends of text of both CLIP encoders are joined. A base without T5 has zeros in its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from auditor.pipeline.families.family import Conditioning, Encoded, Family, vae_factor
from auditor.pipeline.families.flow import flow_shift

if TYPE_CHECKING:
    from auditor.pipeline.components import Components

__all__ = ["SD3"]

_T5 = "text_encoder_3"
_MAX_SHIFT = 1.16


class _StableDiffusion3(Family):
    pipeline = "StableDiffusion3Pipeline"
    denoiser = "transformer"
    encoders: ClassVar[Mapping[str, str]] = {
        "text_encoder": "tokenizer",
        "text_encoder_2": "tokenizer_2",
        _T5: "tokenizer_3",
    }
    optional = frozenset({_T5})
    flow = True
    text_length = 256
    key_value_maps = ("attn.add_k_proj", "attn.add_v_proj")
    stem = "context_embedder"

    def name(self, base: Components) -> str:
        return "sd3"

    def encode(self, name: str, encoder: Any, ids: Tensor) -> Encoded:
        if name == _T5:
            return Encoded(encoder(ids)[0])
        out = encoder(ids, output_hidden_states=True)
        return Encoded(out.hidden_states[-2], out[0])

    def context(self, base: Components, encoded: Mapping[str, Encoded]) -> Tensor:
        joined = torch.cat([one.states for one in encoded.values() if one.states is not None], dim=-1)
        missing = int(base.denoiser_model.config.joint_attention_dim) - joined.shape[-1]
        return torch.nn.functional.pad(joined, (0, missing))

    def condition(self, base: Components, encoded: Mapping[str, Encoded]) -> Conditioning:
        clips = {name: one for name, one in encoded.items() if name != _T5}
        clip = self.context(base, clips)
        if _T5 in encoded:
            t5 = self.context(base, {_T5: encoded[_T5]})
        else:
            t5 = clip.new_zeros(len(clip), self.text_length, clip.shape[-1])
        return Conditioning(torch.cat([clip, t5], dim=1), self.pooled(encoded))

    def denoise(self, base: Components, latents: Tensor, time: Tensor, condition: Conditioning) -> Tensor:
        said: Tensor = base.denoiser_model(
            hidden_states=latents,
            timestep=time,
            encoder_hidden_states=condition.states,
            pooled_projections=condition.pooled,
        ).sample
        return said

    def latent_shape(self, base: Components, size: int | None = None) -> tuple[int, int, int]:
        config = base.denoiser_model.config
        patch = self.patch(base)
        side = size // (vae_factor(base) * patch) * patch if size else int(config.sample_size)
        return int(config.in_channels), side, side

    def patch(self, base: Components) -> int:
        return int(base.denoiser_model.config.patch_size)

    def timestep_arguments(
        self, base: Components, scheduler: Any, steps: int, shape: Sequence[int]
    ) -> dict[str, Any]:
        if not scheduler.config.get("use_dynamic_shifting"):
            return {}
        patch = self.patch(base)
        patches = (shape[-2] // patch) * (shape[-1] // patch)
        return {"mu": flow_shift(scheduler.config, patches, _MAX_SHIFT)}


SD3 = _StableDiffusion3()
