"""Single-file checkpoints: a whole model under CompVis / Stability names, recognised by its keys."""

from __future__ import annotations

from collections.abc import Mapping

from auditor.artifact.dialects.unsupported import name_unsupported
from auditor.artifact.family import FamilyMatch
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


def is_checkpoint(source: TensorSource) -> bool:
    """Whether the file holds a denoiser under ``model.diffusion_model.`` beside other parts of a model."""
    return any(name.startswith(_UNET) for name in source.specs)


def match_checkpoint(source: TensorSource) -> FamilyMatch:
    """The family of a single-file checkpoint, from the width of its conditioning.

    Raises:
        UnsupportedArtifact: its denoiser is no UNet with cross-attention (Flux, SD3 and others are named).
    """
    specs = source.specs
    kind = name_unsupported([name.removeprefix("model.") for name in specs if name.startswith(_UNET)])
    if _CONV_IN not in specs and kind is not None and kind.telling:
        raise UnsupportedArtifact(f"this checkpoint holds {kind.name}, which is not supported: {kind.needed}")
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
