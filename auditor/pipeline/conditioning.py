"""Prompts and images to what a denoiser works on: batched, any family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from auditor.pipeline.components import Components
from auditor.pipeline.families import Conditioning, Encoded

__all__ = [
    "Conditioning", "decode_latents", "encode_context", "encode_ids", "encode_images", "encode_prompts", "token_ids",
]  # fmt: skip


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
    """Encodes token ids, (B, L) for each text encoder, with the weights as they stand."""
    return components.kind.condition(components, _encoded(components, ids))


def encode_context(components: Components, ids: Tensor, encoders: Sequence[str]) -> Conditioning:
    """What rows of ids (B, L) contribute to the conditioning through encoders that share a tokenizer.

    Returns:
        Their token states as the denoiser gets them, of length 0 where it gets none, and their vector if any.
    """
    encoded = _encoded(components, dict.fromkeys(encoders, ids))
    kind = components.kind
    return Conditioning(kind.context(components, encoded), kind.pooled(encoded))


def _encoded(components: Components, ids: Mapping[str, Tensor]) -> dict[str, Encoded]:
    encoders, device = components.text_encoders, components.device
    return {name: components.kind.encode(name, encoders[name], ids[name].to(device)) for name in ids}


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


def decode_latents(components: Components, latents: Tensor, batch: int = 1) -> Tensor:
    """Scaled latents (B, C, h, w) to images (B, 3, H, W) in [-1, 1], float32 on the CPU."""
    vae = components.vae
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    raw = (latents.float() / vae.config.scaling_factor + shift).to(components.device, vae.dtype)
    decoded = torch.cat([vae.decode(part).sample for part in torch.split(raw, batch)])
    return decoded.float().clamp(-1, 1).cpu()
