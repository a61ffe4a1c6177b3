"""The modules of the bases we know, path and weight shape of each, from a handful of widths and depths.

Paths are those of diffusers' ``UNet2DConditionModel`` and transformers' ``CLIPTextModel``. Older checkpoints
name the same UNet modules as the CompVis / Stability code does (``input_blocks.4.1...``, called SGM names
here); the translation follows from the order in which that code numbers its blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

__all__ = ["ModuleShapes", "TextPlan", "UNetPlan", "sgm_names", "text_modules", "unet_modules"]

ModuleShapes = Mapping[str, tuple[int, ...]]
_Entry = tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class UNetPlan:
    """A ``UNet2DConditionModel``, as far as the shapes of its weights go.

    Attributes:
        widths: channels of each level.
        depths: transformer blocks in each attention of a level on the way down; 0 for a level without
            attention.
        middle: transformer blocks in the attention of the middle block.
        context: columns of the text conditioning.
        linear: attention projects with linear layers in place of 1x1 convolutions.
        added: columns of the extra conditioning (size, crop and pooled text in SDXL), or None.
        layers: residual blocks a level on the way down; one more on the way up.
        channels: latent channels.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    middle: int
    context: int
    linear: bool = False
    added: int | None = None
    layers: int = 2
    channels: int = 4


@dataclass(frozen=True)
class TextPlan:
    """A CLIP text encoder: layers, hidden width, width of the MLP, width of the projection or None."""

    layers: int
    hidden: int
    inner: int
    projection: int | None = None


@lru_cache(maxsize=32)
def unet_modules(plan: UNetPlan) -> ModuleShapes:
    """Module path to weight shape, for every module of the UNet that has a weight."""
    return MappingProxyType(dict(_unet(plan)))


@lru_cache(maxsize=32)
def text_modules(plan: TextPlan) -> ModuleShapes:
    """Module path to weight shape, for every layer of the text encoder; embeddings left out."""
    return MappingProxyType(dict(_text(plan)))


@lru_cache(maxsize=32)
def sgm_names(plan: UNetPlan) -> Mapping[str, str]:
    """SGM path to diffusers path, for every module of the UNet that has a weight."""
    prefixes = dict(_sgm_prefixes(plan))
    names: dict[str, str] = {}
    for path in unet_modules(plan):
        parent = next((p for p in prefixes if path == p or path.startswith(p + ".")), None)
        if parent is not None:
            names[prefixes[parent] + _sgm_leaf(path[len(parent) :])] = path
    return MappingProxyType(names)


def _unet(plan: UNetPlan) -> Iterator[_Entry]:
    widths, last = plan.widths, len(plan.widths) - 1
    time = widths[0] * 4
    yield "conv_in", (widths[0], plan.channels, 3, 3)
    yield "time_embedding.linear_1", (time, widths[0])
    yield "time_embedding.linear_2", (time, time)
    if plan.added is not None:
        yield "add_embedding.linear_1", (time, plan.added)
        yield "add_embedding.linear_2", (time, time)
    for level, width in enumerate(widths):
        block = f"down_blocks.{level}"
        for layer in range(plan.layers):
            came = width if layer else widths[max(level - 1, 0)]
            if plan.depths[level]:
                yield from _attention(f"{block}.attentions.{layer}", width, plan.depths[level], plan)
            yield from _residual(f"{block}.resnets.{layer}", came, width, time)
        if level < last:
            yield f"{block}.downsamplers.0.conv", (width, width, 3, 3)
    yield from _attention("mid_block.attentions.0", widths[-1], plan.middle, plan)
    yield from _residual("mid_block.resnets.0", widths[-1], widths[-1], time)
    yield from _residual("mid_block.resnets.1", widths[-1], widths[-1], time)
    for step in range(len(widths)):
        level = last - step
        block, width = f"up_blocks.{step}", widths[level]
        for layer in range(plan.layers + 1):
            came = width if layer else widths[min(level + 1, last)]
            skip = widths[max(level - 1, 0)] if layer == plan.layers else width
            if plan.depths[level]:
                yield from _attention(f"{block}.attentions.{layer}", width, plan.depths[level], plan)
            yield from _residual(f"{block}.resnets.{layer}", came + skip, width, time)
        if step < last:
            yield f"{block}.upsamplers.0.conv", (width, width, 3, 3)
    yield "conv_norm_out", (widths[0],)
    yield "conv_out", (plan.channels, widths[0], 3, 3)


def _residual(path: str, came: int, width: int, time: int) -> Iterator[_Entry]:
    yield f"{path}.norm1", (came,)
    yield f"{path}.conv1", (width, came, 3, 3)
    yield f"{path}.time_emb_proj", (width, time)
    yield f"{path}.norm2", (width,)
    yield f"{path}.conv2", (width, width, 3, 3)
    if came != width:
        yield f"{path}.conv_shortcut", (width, came, 1, 1)


def _attention(path: str, width: int, depth: int, plan: UNetPlan) -> Iterator[_Entry]:
    outer = (width, width) if plan.linear else (width, width, 1, 1)
    yield f"{path}.norm", (width,)
    yield f"{path}.proj_in", outer
    for index in range(depth):
        block = f"{path}.transformer_blocks.{index}"
        yield f"{block}.norm1", (width,)
        yield from _projections(f"{block}.attn1", width, width)
        yield f"{block}.norm2", (width,)
        yield from _projections(f"{block}.attn2", width, plan.context)
        yield f"{block}.norm3", (width,)
        yield f"{block}.ff.net.0.proj", (width * 8, width)
        yield f"{block}.ff.net.2", (width, width * 4)
    yield f"{path}.proj_out", outer


def _projections(path: str, width: int, context: int) -> Iterator[_Entry]:
    yield f"{path}.to_q", (width, width)
    yield f"{path}.to_k", (width, context)
    yield f"{path}.to_v", (width, context)
    yield f"{path}.to_out.0", (width, width)


def _text(plan: TextPlan) -> Iterator[_Entry]:
    hidden, inner = plan.hidden, plan.inner
    for index in range(plan.layers):
        layer = f"text_model.encoder.layers.{index}"
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield f"{layer}.self_attn.{name}", (hidden, hidden)
        yield f"{layer}.layer_norm1", (hidden,)
        yield f"{layer}.mlp.fc1", (inner, hidden)
        yield f"{layer}.mlp.fc2", (hidden, inner)
        yield f"{layer}.layer_norm2", (hidden,)
    yield "text_model.final_layer_norm", (hidden,)
    if plan.projection is not None:
        yield "text_projection", (plan.projection, hidden)


def _sgm_prefixes(plan: UNetPlan) -> Iterator[tuple[str, str]]:
    yield "conv_in", "input_blocks.0.0"
    yield "time_embedding.linear_1", "time_embed.0"
    yield "time_embedding.linear_2", "time_embed.2"
    yield "add_embedding.linear_1", "label_emb.0.0"
    yield "add_embedding.linear_2", "label_emb.0.2"
    yield "conv_norm_out", "out.0"
    yield "conv_out", "out.2"
    for index, part in enumerate(("resnets.0", "attentions.0", "resnets.1")):
        yield f"mid_block.{part}", f"middle_block.{index}"
    last = len(plan.widths) - 1
    # The input counter runs over conv_in, then for each level its layers and its downsampler.
    for level in range(len(plan.widths)):
        for layer in range(plan.layers):
            number = 1 + level * (plan.layers + 1) + layer
            yield f"down_blocks.{level}.resnets.{layer}", f"input_blocks.{number}.0"
            yield f"down_blocks.{level}.attentions.{layer}", f"input_blocks.{number}.1"
        yield (
            f"down_blocks.{level}.downsamplers.0.conv",
            f"input_blocks.{(level + 1) * (plan.layers + 1)}.0.op",
        )
    # Upsamplers share the number of their level's last layer, behind its attention if it has one.
    for step in range(len(plan.widths)):
        for layer in range(plan.layers + 1):
            number = step * (plan.layers + 1) + layer
            yield f"up_blocks.{step}.resnets.{layer}", f"output_blocks.{number}.0"
            yield f"up_blocks.{step}.attentions.{layer}", f"output_blocks.{number}.1"
        place = 2 if plan.depths[last - step] else 1
        yield (
            f"up_blocks.{step}.upsamplers.0",
            f"output_blocks.{step * (plan.layers + 1) + plan.layers}.{place}",
        )


_RESIDUAL_LEAVES = {
    ".norm1": ".in_layers.0",
    ".conv1": ".in_layers.2",
    ".time_emb_proj": ".emb_layers.1",
    ".norm2": ".out_layers.0",
    ".conv2": ".out_layers.3",
    ".conv_shortcut": ".skip_connection",
}


def _sgm_leaf(rest: str) -> str:
    return _RESIDUAL_LEAVES.get(rest, rest)
