"""Sizes and recipes of every embedded model, in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = [
    "DUAL",
    "FURTHER",
    "IDENTITY",
    "JUDGE",
    "LATENT_SCENES",
    "MAX_TOKENS",
    "Recipe",
    "SCHEDULER",
    "TEXT_ENCODER",
    "TRAIN_SCENES",
    "UNET",
    "VAE",
    "RECIPES",
    "VOCAB_SIZE",
]

TRAIN_SCENES = 60_000
LATENT_SCENES = 24_000
"""How many of them the denoiser is trained on (their latents are cached)."""
VOCAB_SIZE = 4096
MAX_TOKENS = 32
_TEXT_WIDTH = 192

VAE: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "block_out_channels": (16, 48, 96),
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 8,
    "sample_size": 64,
}
TEXT_ENCODER: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": _TEXT_WIDTH,
    "intermediate_size": 4 * _TEXT_WIDTH,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": MAX_TOKENS,
    "hidden_act": "gelu",
    "projection_dim": 128,
}
UNET: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (64, 128, 192),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": _TEXT_WIDTH,
    # Read by this class as the number of heads.
    "attention_head_dim": (2, 4, 4),
    "norm_num_groups": 16,
}
SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
DUAL: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "layers": 4, "width": 128, "head_width": 32, "patch_size": 8},
    "text_cfg": {
        "context_length": MAX_TOKENS,
        "vocab_size": VOCAB_SIZE,
        "width": _TEXT_WIDTH,
        "heads": 4,
        "layers": 3,
        "pool_type": "eos",
        "eos_id": VOCAB_SIZE - 1,
    },
}
JUDGE: dict[str, Any] = {"widths": (24, 48, 80, 96), "features": 160}
IDENTITY: dict[str, Any] = {"widths": (24, 48, 80, 112), "features": 192, "embed_dim": 64}


@dataclass(frozen=True)
class Recipe:
    """Optimisation of one stage: AdamW, linear warm-up, cosine to zero, EMA of the weights."""

    steps: int
    batch: int
    lr: float
    warmup: int = 100
    weight_decay: float = 0.01
    ema: float = 0.999
    seed: int = 0


RECIPES: dict[str, Recipe] = {
    "vae": Recipe(steps=1100, batch=16, lr=2e-3, ema=0.998, weight_decay=0.0),
    "decoder": Recipe(steps=450, batch=16, lr=1e-3, warmup=30, ema=0.995, weight_decay=0.0),
    "dual": Recipe(steps=900, batch=96, lr=1e-3, ema=0.998, weight_decay=0.05),
    "unet": Recipe(steps=2000, batch=32, lr=1e-3, ema=0.998),
    "judge": Recipe(steps=2000, batch=64, lr=1.5e-3, ema=0.998),
    "identity": Recipe(steps=1500, batch=64, lr=1.2e-3, ema=0.998),
}

FURTHER = Recipe(steps=2800, batch=32, lr=8e-4, warmup=150, ema=0.999, seed=11)
"""A second cycle for the denoiser, from the weights that the first one left.

In the run that made the shipped weights the first 1,440 steps followed the cosine of a cycle of 5,000, and the next
460 that of one of 4,000.
"""
