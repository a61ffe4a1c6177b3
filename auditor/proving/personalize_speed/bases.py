"""Bases of real size with random weights: a clock does not ask what a model has learned."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from auditor.pipeline.components import Components
from auditor.pipeline.families import FAMILIES
from auditor.pipeline.open import choose_device, load_base

__all__ = ["SHAPES", "Shape", "networks_of", "open_base", "shaped"]

_LENGTH = 77
_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
_CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
_CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}


@dataclass(frozen=True)
class Shape:
    """Configurations of the parts of a base; a second encoder has a projection, as wide as it is itself."""

    pipeline: str
    unet: Mapping[str, Any]
    encoders: tuple[Mapping[str, int], ...]
    vae: Mapping[str, Any] = field(default_factory=lambda: _VAE)


# Widths, depths and heads as the published configurations have them.
_SHAPES = {
    "sd15-shaped": Shape(
        "StableDiffusionPipeline",
        {
            "sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2,
            "cross_attention_dim": 768, "attention_head_dim": 8,
        },
        (_CLIP_L,),
    ),
    "sdxl-shaped": Shape(
        "StableDiffusionXLPipeline",
        {
            "sample_size": 128, "block_out_channels": (320, 640, 1280), "layers_per_block": 2,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20), "transformer_layers_per_block": (1, 2, 10),
            "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 6 * 256 + 1280,
        },
        (_CLIP_L, _CLIP_G),
    ),
}  # fmt: skip
SHAPES = tuple(_SHAPES)
"""Bases with the layers and widths of Stable Diffusion 1.5 and SDXL, 512 and 1024 pixels, and random weights."""


def open_base(name: str | None, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Components:
    """One of :data:`SHAPES`, or whatever :func:`auditor.pipeline.open.load_base` opens.

    Raises:
        BaseUnavailable: see :func:`auditor.pipeline.open.load_base`. UsageError: no such device.
    """
    if name in _SHAPES:
        return shaped(_SHAPES[name], name, choose_device(device), dtype)
    return load_base(name, device, dtype=dtype)


def shaped(shape: Shape, name: str, device: torch.device, dtype: torch.dtype) -> Components:
    """A base of a shape, the same random weights every time; the autoencoder is float32, as in all bases."""
    from diffusers import DDPMScheduler

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        modules = networks_of(shape)
    for component, module in modules.items():
        kind = torch.float32 if component == "vae" else dtype
        nn.Module.to(module, device=device, dtype=kind).eval().requires_grad_(False)
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    tokenizers = {component: _tokenizer() for component in modules if component.startswith("text_encoder")}
    return Components(FAMILIES[shape.pipeline], modules, tokenizers, scheduler, ref=name, sha256=f"random {name}")


def networks_of(shape: Shape) -> dict[str, nn.Module]:
    """The modules of a shape by component, where and as torch makes modules by default."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    side = shape.unet["sample_size"] * 2 ** (len(shape.vae["block_out_channels"]) - 1)
    encoders = {
        "text_encoder" + (f"_{i + 1}" if i else ""): _encoder(config, projected=i > 0)
        for i, config in enumerate(shape.encoders)
    }
    return {
        "vae": AutoencoderKL(**shape.vae, sample_size=side),
        "unet": UNet2DConditionModel(**shape.unet),
        **encoders,
    }


def _encoder(config: Mapping[str, int], projected: bool) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    more = {"projection_dim": config["hidden_size"]} if projected else {}
    kind: Any = CLIPTextModelWithProjection if projected else CLIPTextModel
    # Token 2 as the end of a text means to the library that the largest id is.
    model: nn.Module = kind(CLIPTextConfig(**config, **more, max_position_embeddings=_LENGTH, eos_token_id=2))
    return model


def _tokenizer() -> Any:
    """The embedded base's own, at the length of the large encoders: the published ones cannot be had offline."""
    tokenizer = copy.deepcopy(load_base(device="cpu").tokenizers["text_encoder"])
    tokenizer.model_max_length = _LENGTH
    return tokenizer
