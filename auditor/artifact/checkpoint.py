"""Single-file checkpoints: a whole model under CompVis / Stability names, recognised by its keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from auditor.artifact.dialects.unsupported import name_unsupported
from auditor.artifact.family import FamilyMatch, match_family
from auditor.artifact.original_names import original_module, row_spans
from auditor.artifact.tensors import TensorSource
from auditor.errors import UnsupportedArtifact

__all__ = ["is_checkpoint", "match_checkpoint"]

_UNET = "model.diffusion_model."
_PARTS = (_UNET, "first_stage_model.", "cond_stage_model.", "conditioner.")
_CONV_IN = f"{_UNET}input_blocks.0.0.weight"
_CONTEXT = (
    f"{_UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
    f"{_UNET}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight",
)
_FAMILIES: Mapping[int, str] = {768: "sd1", 1024: "sd2", 2048: "sdxl", 192: "embedded"}
_LATENT_CHANNELS = 4
_TRANSFORMER_BLOCKS = (f"{_UNET}double_blocks.", f"{_UNET}joint_blocks.")
# The first and the last layer of Flux and SD3; those who publish the transformer alone leave the prefix off.
_WHOLE = (
    ("img_in.weight", "double_blocks.0.img_attn.qkv.weight", "final_layer.linear.weight"),
    ("x_embedder.proj.weight", "joint_blocks.0.x_block.attn.qkv.weight", "final_layer.linear.weight"),
)
_TRANSFORMER_PARTS = (_UNET, "text_encoders.", "first_stage_model.", "vae.")


def is_checkpoint(source: TensorSource) -> bool:
    """Whether the file holds a denoiser under ``model.diffusion_model.``, or all of a Flux or SD3 by itself."""
    return any(name.startswith(_UNET) for name in source.specs) or _transformer_prefix(source) is not None


def match_checkpoint(source: TensorSource) -> FamilyMatch:
    """The family of a single-file checkpoint, from the width of its conditioning, or all shapes of Flux and SD3.

    Raises:
        UnsupportedArtifact: its denoiser is one that is not read, which is named.
    """
    specs = source.specs
    kind = name_unsupported([name.removeprefix("model.") for name in specs if name.startswith(_UNET)])
    if _CONV_IN not in specs and kind is not None and kind.telling:
        raise UnsupportedArtifact(f"this checkpoint holds {kind.name}, which is not supported: {kind.needed}")
    prefix = _transformer_prefix(source)
    if prefix is not None:
        return _match_transformer(source, prefix)
    parts = ", ".join(part.rstrip(".") for part in _PARTS if any(name.startswith(part) for name in specs))
    evidence = [f"keys begin with {parts}: a whole model in one file"]
    key = next((key for key in _CONTEXT if key in specs), None)
    columns = specs[key].shape[-1] if key is not None and specs[key].shape else 0
    family = _FAMILIES.get(columns, "other")
    evidence.append(
        f"attn2.to_k takes {columns} columns" if columns else "no cross-attention was found where SD has it"
    )
    conv_in = specs.get(_CONV_IN)
    channels = conv_in.shape[1] if conv_in is not None and len(conv_in.shape) > 1 else _LATENT_CHANNELS
    if channels != _LATENT_CHANNELS:
        evidence.append(
            f"the UNet takes {channels} channels: an inpainting, depth or other conditioned variant"
        )
        family = "other"
    return FamilyMatch(family, tuple(evidence))


def _transformer_prefix(source: TensorSource) -> str | None:
    """What stands before the original names of a Flux or SD3, or None if it is not there as a whole."""
    if any(name.startswith(_TRANSFORMER_BLOCKS) for name in source.specs):
        return _UNET
    return "" if any(all(name in source.specs for name in names) for names in _WHOLE) else None


def _match_transformer(source: TensorSource, prefix: str) -> FamilyMatch:
    shapes: dict[str, tuple[int, ...]] = {}
    for name, spec in source.specs.items():
        path = name.removeprefix(prefix)
        spread = original_module(path.removesuffix(".weight").removesuffix(".scale"))
        spans = row_spans(spread, tuple(spec.shape)) if spread is not None else None
        if spread is not None and spans is not None and path.endswith((".weight", ".scale")):
            for target, span in zip(spread.targets, spans, strict=True):
                rows = sum(stop - start for start, stop in span)
                shapes[target] = (rows, *spec.shape[1:])
    parts = [part.rstrip(".") for part in _TRANSFORMER_PARTS if any(n.startswith(part) for n in source.specs)]
    told = (
        f"keys begin with {', '.join(parts)}: a whole model in one file"
        if parts
        else ("keys are those of a whole transformer in its original naming, without text encoders")
    )
    match = match_family({"transformer": shapes})
    return replace(match, evidence=(told, *match.evidence))
