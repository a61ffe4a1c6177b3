"""The modules of SD3, Flux and T5, path and weight shape of each, from a handful of widths and depths.

Paths are those of diffusers' ``SD3Transformer2DModel`` and ``FluxTransformer2DModel`` and of transformers'
``T5EncoderModel``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from auditor.artifact.architectures import ModuleShapes

__all__ = ["FluxPlan", "SD3Plan", "T5Plan", "flux_modules", "sd3_modules", "t5_modules"]

_Entry = tuple[str, tuple[int, ...]]
# The sinusoidal embedding of the timestep has this many values in both.
_TIMESTEP = 256


@dataclass(frozen=True)
class SD3Plan:
    """An ``SD3Transformer2DModel`` (arXiv:2403.03206), as far as the shapes of its weights go.

    Attributes:
        width: hidden width; image and text stream share it.
        layers: joint transformer blocks; the last one has no text stream behind its attention.
        dual: how many of the first blocks have a second attention over the image alone (SD3.5 medium).
        normed: queries and keys are normalised (SD3.5).
        context: columns of the text conditioning.
        pooled: columns of the pooled text.
        channels: latent channels.
        patch: side of a patch, in latents.
        head: width of an attention head.
    """

    width: int
    layers: int
    dual: int = 0
    normed: bool = False
    context: int = 4096
    pooled: int = 2048
    channels: int = 16
    patch: int = 2
    head: int = 64


@dataclass(frozen=True)
class FluxPlan:
    """A ``FluxTransformer2DModel``, as far as the shapes of its weights go.

    Attributes:
        width: hidden width.
        double: blocks with separate weights for image and text.
        single: blocks over both.
        guidance: the guidance scale is an input (dev; schnell has none).
        context: columns of the text conditioning.
        pooled: columns of the pooled text.
        channels: columns of a packed patch of latents.
        head: width of an attention head.
    """

    width: int = 3072
    double: int = 19
    single: int = 38
    guidance: bool = True
    context: int = 4096
    pooled: int = 768
    channels: int = 64
    head: int = 128


@dataclass(frozen=True)
class T5Plan:
    """A T5 encoder with gated feed-forward layers (v1.1).

    Attributes:
        layers: blocks.
        hidden: hidden width.
        inner: width of the feed-forward layers.
        attention: width of all heads together.
        heads: attention heads.
        buckets: buckets of relative positions.
    """

    layers: int = 24
    hidden: int = 4096
    inner: int = 10240
    attention: int = 4096
    heads: int = 64
    buckets: int = 32


@lru_cache(maxsize=32)
def sd3_modules(plan: SD3Plan) -> ModuleShapes:
    """Module path to weight shape, for every module of the transformer that has a weight."""
    return MappingProxyType(dict(_sd3(plan)))


@lru_cache(maxsize=32)
def flux_modules(plan: FluxPlan) -> ModuleShapes:
    """Module path to weight shape, for every module of the transformer that has a weight."""
    return MappingProxyType(dict(_flux(plan)))


@lru_cache(maxsize=32)
def t5_modules(plan: T5Plan) -> ModuleShapes:
    """Module path to weight shape, for every layer of the encoder; token embeddings left out."""
    return MappingProxyType(dict(_t5(plan)))


def _sd3(plan: SD3Plan) -> Iterator[_Entry]:
    width = plan.width
    yield "pos_embed.proj", (width, plan.channels, plan.patch, plan.patch)
    yield from _embedder("timestep_embedder", width, _TIMESTEP)
    yield from _embedder("text_embedder", width, plan.pooled)
    yield "context_embedder", (width, plan.context)
    for index in range(plan.layers):
        block, last, dual = f"transformer_blocks.{index}", index == plan.layers - 1, index < plan.dual
        yield f"{block}.norm1.linear", (width * (9 if dual else 6), width)
        yield f"{block}.norm1_context.linear", (width * (2 if last else 6), width)
        yield from _joint_attention(f"{block}.attn", width, plan.head if plan.normed else 0)
        if not last:
            yield f"{block}.attn.to_add_out", (width, width)
        if dual:
            yield from _attention(f"{block}.attn2", width, plan.head if plan.normed else 0)
            yield f"{block}.attn2.to_out.0", (width, width)
        yield from _feed_forward(f"{block}.ff", width)
        if not last:
            yield from _feed_forward(f"{block}.ff_context", width)
    yield "norm_out.linear", (width * 2, width)
    yield "proj_out", (plan.channels * plan.patch**2, width)


def _flux(plan: FluxPlan) -> Iterator[_Entry]:
    width = plan.width
    yield from _embedder("timestep_embedder", width, _TIMESTEP)
    if plan.guidance:
        yield from _embedder("guidance_embedder", width, _TIMESTEP)
    yield from _embedder("text_embedder", width, plan.pooled)
    yield "context_embedder", (width, plan.context)
    yield "x_embedder", (width, plan.channels)
    for index in range(plan.double):
        block = f"transformer_blocks.{index}"
        yield f"{block}.norm1.linear", (width * 6, width)
        yield f"{block}.norm1_context.linear", (width * 6, width)
        yield from _joint_attention(f"{block}.attn", width, plan.head)
        yield f"{block}.attn.to_add_out", (width, width)
        yield from _feed_forward(f"{block}.ff", width)
        yield from _feed_forward(f"{block}.ff_context", width)
    for index in range(plan.single):
        block = f"single_transformer_blocks.{index}"
        yield f"{block}.norm.linear", (width * 3, width)
        yield f"{block}.proj_mlp", (width * 4, width)
        yield f"{block}.proj_out", (width, width * 5)
        yield from _attention(f"{block}.attn", width, plan.head)
    yield "norm_out.linear", (width * 2, width)
    yield "proj_out", (plan.channels, width)


def _embedder(name: str, width: int, columns: int) -> Iterator[_Entry]:
    yield f"time_text_embed.{name}.linear_1", (width, columns)
    yield f"time_text_embed.{name}.linear_2", (width, width)


def _joint_attention(path: str, width: int, head: int) -> Iterator[_Entry]:
    yield from _attention(path, width, head)
    yield f"{path}.to_out.0", (width, width)
    for name in ("add_q_proj", "add_k_proj", "add_v_proj"):
        yield f"{path}.{name}", (width, width)
    if head:
        yield f"{path}.norm_added_q", (head,)
        yield f"{path}.norm_added_k", (head,)


def _attention(path: str, width: int, head: int) -> Iterator[_Entry]:
    for name in ("to_q", "to_k", "to_v"):
        yield f"{path}.{name}", (width, width)
    if head:
        yield f"{path}.norm_q", (head,)
        yield f"{path}.norm_k", (head,)


def _feed_forward(path: str, width: int) -> Iterator[_Entry]:
    yield f"{path}.net.0.proj", (width * 4, width)
    yield f"{path}.net.2", (width, width * 4)


def _t5(plan: T5Plan) -> Iterator[_Entry]:
    for index in range(plan.layers):
        block = f"encoder.block.{index}"
        for name in ("q", "k", "v"):
            yield f"{block}.layer.0.SelfAttention.{name}", (plan.attention, plan.hidden)
        yield f"{block}.layer.0.SelfAttention.o", (plan.hidden, plan.attention)
        if index == 0:
            yield f"{block}.layer.0.SelfAttention.relative_attention_bias", (plan.buckets, plan.heads)
        yield f"{block}.layer.0.layer_norm", (plan.hidden,)
        yield f"{block}.layer.1.DenseReluDense.wi_0", (plan.inner, plan.hidden)
        yield f"{block}.layer.1.DenseReluDense.wi_1", (plan.inner, plan.hidden)
        yield f"{block}.layer.1.DenseReluDense.wo", (plan.hidden, plan.inner)
        yield f"{block}.layer.1.layer_norm", (plan.hidden,)
    yield "encoder.final_layer_norm", (plan.hidden,)
