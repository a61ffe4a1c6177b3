"""One text tower under two names: open_clip's and transformers'. The pipeline's copy is the one that is stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

__all__ = ["from_transformers", "is_text_key", "to_transformers"]

_PLAIN = {
    "ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}  # fmt: skip
_OUTER = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
_JOINED = ("q_proj", "k_proj", "v_proj")


def to_transformers(clip: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """State of the text tower of ``open_clip.CLIP`` under ``CLIPTextModel``'s names (without ``text_model.``)."""
    out: dict[str, Tensor] = {}
    for ours, theirs in _names(layers):
        parts = clip[ours].chunk(len(theirs)) if len(theirs) > 1 else (clip[ours],)
        out |= dict(zip(theirs, parts, strict=True))
    return out


def from_transformers(text: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """The inverse of :func:`to_transformers`; names may carry ``text_model.``."""
    bare = {key.removeprefix("text_model."): value for key, value in text.items()}
    return {ours: torch.cat([bare[name] for name in theirs]) for ours, theirs in _names(layers)}


def is_text_key(key: str) -> bool:
    """Whether a key of ``open_clip.CLIP``'s state belongs to the tower that the pipeline stores."""
    return key in _OUTER or key.startswith("transformer.resblocks.")


def _names(layers: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    for ours, theirs in _OUTER.items():
        yield ours, (theirs,)
    for i in range(layers):
        source, target = f"transformer.resblocks.{i}.", f"encoder.layers.{i}."
        for kind in ("weight", "bias"):
            for old, new in _PLAIN.items():
                yield f"{source}{old}.{kind}", (f"{target}{new}.{kind}",)
            yield (
                f"{source}attn.in_proj_{kind}",
                tuple(f"{target}self_attn.{name}.{kind}" for name in _JOINED),
            )
