"""Prompts and images to what a denoiser works on: batched, any CLIP-based family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from auditor.pipeline.components import Components

__all__ = ["Conditioning", "encode_ids", "encode_images", "encode_prompts", "token_ids"]


@dataclass(frozen=True)
class Conditioning:
    """Token states (B, L, D), and for SDXL the pooled vector (B, P)."""

    states: Tensor
    pooled: Tensor | None = None

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, rows: Any) -> Conditioning:
        return Conditioning(self.states[rows], None if self.pooled is None else self.pooled[rows])

    @staticmethod
    def join(parts: Sequence[Conditioning]) -> Conditioning:
        """Concatenates along the batch."""
        pooled = [part.pooled for part in parts if part.pooled is not None]
        return Conditioning(torch.cat([part.states for part in parts]), torch.cat(pooled) if pooled else None)


def token_ids(tokenizer: Any, prompts: Sequence[str]) -> Tensor:
    """int64 (B, L), padded and cut to the tokenizer's length."""
    out = tokenizer(
        list(prompts),
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    )
    ids: Tensor = out.input_ids
    return ids


def encode_prompts(
    components: Components, tokenizers: Mapping[str, Any], prompts: Sequence[str], batch: int = 64
) -> Conditioning:
    """Encodes prompts with the weights as they stand; gradients flow if the caller allows them."""
    parts = []
    for start in range(0, len(prompts), batch):
        texts = prompts[start : start + batch]
        ids = {name: token_ids(tokenizers[name], texts) for name in components.text_encoders}
        parts.append(encode_ids(components, ids))
    return Conditioning.join(parts)


def encode_ids(components: Components, ids: Mapping[str, Tensor]) -> Conditioning:
    """Encodes token ids, (B, L) for each text encoder, with the weights as they stand.

    SD1/SD2 take the encoder's final states; SDXL joins the last-but-one states of both encoders and pools
    the second (Podell et al., 2023, arXiv 2307.01952).
    """
    device = components.device
    if components.family != "sdxl":
        return Conditioning(
            components.modules["text_encoder"](ids["text_encoder"].to(device)).last_hidden_state
        )
    states, pooled = [], None
    for name, encoder in components.text_encoders.items():
        out = encoder(ids[name].to(device), output_hidden_states=True)
        states.append(out.hidden_states[-2])
        pooled = out[0]
    return Conditioning(torch.cat(states, dim=-1), pooled)


def encode_images(components: Components, images: Tensor, batch: int = 16) -> Tensor:
    """Images (B, 3, H, W) in [-1, 1] to scaled latents on the base's device, the posterior's mean, float32."""
    vae = components.vae
    means = [
        vae.encode(part.to(components.device, vae.dtype)).latent_dist.mean.float()
        for part in torch.split(images, batch)
    ]
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    scaled: Tensor = (torch.cat(means) - shift) * vae.config.scaling_factor
    return scaled
