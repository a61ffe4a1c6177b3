"""The module names of the labs that made SD3 and Flux, and the diffusers modules that each of them holds.

Their code keeps queries, keys and values of an attention in one weight, diffusers keeps them apart: a module
there is one or several modules here, each a range of its rows. Modulations that give a shift and then a scale
give the scale first in diffusers, so their halves change places. The tables follow
``convert_flux_transformer_checkpoint_to_diffusers`` and ``convert_sd3_transformer_checkpoint_to_diffusers``
of diffusers, and for XLabs ``_convert_xlabs_flux_lora_to_diffusers``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["Spread", "original_module", "row_spans", "t5_component"]

Rows: TypeAlias = Literal["whole", "thirds", "gated", "swapped", "swapped_if_two"]
Spans: TypeAlias = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Spread:
    """Where the rows of one original module are in diffusers.

    Attributes:
        targets: the diffusers modules, in the order of their rows.
        rows: ``whole`` for one target with the same rows; ``thirds`` for targets of equal size; ``gated`` for
            queries, keys and values as wide as the input, and the rest; ``swapped`` for one target with its
            halves in the other order; ``swapped_if_two`` for the same where the rows are a shift and a scale,
            and ``whole`` where they are a full modulation of six parts (the text stream of SD3 blocks).
    """

    targets: tuple[str, ...]
    rows: Rows = "whole"


_IMAGE = ("attn.to_q", "attn.to_k", "attn.to_v")
_TEXT = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
_SECOND = ("attn2.to_q", "attn2.to_k", "attn2.to_v")


def _one(target: str) -> Spread:
    return Spread((target,))


_DOUBLE: Mapping[str, Spread] = {
    "img_mod.lin": _one("norm1.linear"),
    "img_attn.qkv": Spread(_IMAGE, "thirds"),
    "img_attn.norm.query_norm": _one("attn.norm_q"),
    "img_attn.norm.key_norm": _one("attn.norm_k"),
    "img_attn.proj": _one("attn.to_out.0"),
    "img_mlp.0": _one("ff.net.0.proj"),
    "img_mlp.2": _one("ff.net.2"),
    "txt_mod.lin": _one("norm1_context.linear"),
    "txt_attn.qkv": Spread(_TEXT, "thirds"),
    "txt_attn.norm.query_norm": _one("attn.norm_added_q"),
    "txt_attn.norm.key_norm": _one("attn.norm_added_k"),
    "txt_attn.proj": _one("attn.to_add_out"),
    "txt_mlp.0": _one("ff_context.net.0.proj"),
    "txt_mlp.2": _one("ff_context.net.2"),
    "processor.qkv_lora1": Spread(_IMAGE, "thirds"),
    "processor.qkv_lora2": Spread(_TEXT, "thirds"),
    "processor.proj_lora1": _one("attn.to_out.0"),
    "processor.proj_lora2": _one("attn.to_add_out"),
}
_SINGLE: Mapping[str, Spread] = {
    "modulation.lin": _one("norm.linear"),
    "linear1": Spread((*_IMAGE, "proj_mlp"), "gated"),
    "norm.query_norm": _one("attn.norm_q"),
    "norm.key_norm": _one("attn.norm_k"),
    "linear2": _one("proj_out"),
    "processor.qkv_lora": Spread(_IMAGE, "thirds"),
    "processor.proj_lora": _one("proj_out"),
}
_JOINT: Mapping[str, Spread] = {
    "x_block.adaLN_modulation.1": _one("norm1.linear"),
    "x_block.attn.qkv": Spread(_IMAGE, "thirds"),
    "x_block.attn.ln_q": _one("attn.norm_q"),
    "x_block.attn.ln_k": _one("attn.norm_k"),
    "x_block.attn.proj": _one("attn.to_out.0"),
    "x_block.attn2.qkv": Spread(_SECOND, "thirds"),
    "x_block.attn2.ln_q": _one("attn2.norm_q"),
    "x_block.attn2.ln_k": _one("attn2.norm_k"),
    "x_block.attn2.proj": _one("attn2.to_out.0"),
    "x_block.mlp.fc1": _one("ff.net.0.proj"),
    "x_block.mlp.fc2": _one("ff.net.2"),
    "context_block.adaLN_modulation.1": Spread(("norm1_context.linear",), "swapped_if_two"),
    "context_block.attn.qkv": Spread(_TEXT, "thirds"),
    "context_block.attn.ln_q": _one("attn.norm_added_q"),
    "context_block.attn.ln_k": _one("attn.norm_added_k"),
    "context_block.attn.proj": _one("attn.to_add_out"),
    "context_block.mlp.fc1": _one("ff_context.net.0.proj"),
    "context_block.mlp.fc2": _one("ff_context.net.2"),
}
_BLOCKS: Mapping[str, tuple[str, Mapping[str, Spread]]] = {
    "double_blocks": ("transformer_blocks", _DOUBLE),
    "single_blocks": ("single_transformer_blocks", _SINGLE),
    "joint_blocks": ("transformer_blocks", _JOINT),
}
_OUTSIDE: Mapping[str, Spread] = {
    "img_in": _one("x_embedder"),
    "txt_in": _one("context_embedder"),
    "time_in.in_layer": _one("time_text_embed.timestep_embedder.linear_1"),
    "time_in.out_layer": _one("time_text_embed.timestep_embedder.linear_2"),
    "guidance_in.in_layer": _one("time_text_embed.guidance_embedder.linear_1"),
    "guidance_in.out_layer": _one("time_text_embed.guidance_embedder.linear_2"),
    "vector_in.in_layer": _one("time_text_embed.text_embedder.linear_1"),
    "vector_in.out_layer": _one("time_text_embed.text_embedder.linear_2"),
    "x_embedder.proj": _one("pos_embed.proj"),
    "context_embedder": _one("context_embedder"),
    "t_embedder.mlp.0": _one("time_text_embed.timestep_embedder.linear_1"),
    "t_embedder.mlp.2": _one("time_text_embed.timestep_embedder.linear_2"),
    "y_embedder.mlp.0": _one("time_text_embed.text_embedder.linear_1"),
    "y_embedder.mlp.2": _one("time_text_embed.text_embedder.linear_2"),
    "final_layer.adaLN_modulation.1": Spread(("norm_out.linear",), "swapped"),
    "final_layer.linear": _one("proj_out"),
}


def _flat(table: Mapping[str, Spread]) -> dict[str, Spread]:
    return {name.replace(".", "_"): spread for name, spread in table.items()}


_FLAT_BLOCKS = {kind: (path, _flat(table)) for kind, (path, table) in _BLOCKS.items()}
_FLAT_OUTSIDE = _flat(_OUTSIDE)
# A number as loaders write it: neither leading zeros nor digits of another script are the same module.
_DOTTED_NAME = re.compile(r"(double_blocks|single_blocks|joint_blocks)\.(0|[1-9][0-9]{0,3})\.(.+)")
_FLAT_NAME = re.compile(r"(double_blocks|single_blocks|joint_blocks)_(0|[1-9][0-9]{0,3})_(.+)")
_FLUX = re.compile(r"(?:double|single)_blocks[._]\d|single_transformer_blocks[._]\d")
_T5_BLOCK = "encoder.block."


def original_module(name: str, flat: bool = False) -> Spread | None:
    """The diffusers modules that a module of the original Flux or SD3 code holds, or None if it is neither's.

    Args:
        name: the module, ``double_blocks.0.img_attn.qkv`` for example; how many blocks there are is not
            checked here.
        flat: the name is written with underscores in place of dots.
    """
    found = (_FLAT_NAME if flat else _DOTTED_NAME).fullmatch(name)
    if found is None:
        return (_FLAT_OUTSIDE if flat else _OUTSIDE).get(name)
    block, table = (_FLAT_BLOCKS if flat else _BLOCKS)[found[1]]
    spread = table.get(found[3])
    if spread is None:
        return None
    return Spread(tuple(f"{block}.{found[2]}.{target}" for target in spread.targets), spread.rows)


def row_spans(spread: Spread, shape: tuple[int, ...]) -> tuple[Spans, ...] | None:
    """Which rows of the original weight each target has, in its own order; None where the shape does not fit.

    Args:
        spread: how the rows are spread.
        shape: the shape of the original weight, (out, ...).
    """
    rows = shape[0] if shape else 0
    columns = shape[1] if len(shape) > 1 else 0
    if spread.rows == "thirds":
        size = rows // len(spread.targets)
        sizes = [size] * len(spread.targets)
    elif spread.rows == "gated":
        sizes = [columns] * (len(spread.targets) - 1)
        sizes.append(rows - sum(sizes))
    elif spread.rows == "swapped" or (spread.rows == "swapped_if_two" and rows == 2 * columns):
        half = rows // 2
        return (((half, rows), (0, half)),) if half and 2 * half == rows else None
    else:
        sizes = [rows]
    if sum(sizes) != rows or min(sizes) <= 0:
        return None
    ends = [sum(sizes[: index + 1]) for index in range(len(sizes))]
    return tuple(((end - size, end),) for size, end in zip(sizes, ends, strict=True))


def t5_component(
    names: Iterable[str], base: Mapping[str, Mapping[str, tuple[int, ...]]] | None = None
) -> str:
    """Which text encoder a T5 is: the second in Flux, the third in SD3, which the rest of the file tells.

    Args:
        names: the keys of the file.
        base: component to module path to weight shape of a base that was named.
    """
    for component in ("text_encoder_2", "text_encoder_3"):
        if any(path.startswith(_T5_BLOCK) for path in (base or {}).get(component, {})):
            return component
    return "text_encoder_2" if any(_FLUX.search(name) for name in names) else "text_encoder_3"
