"""What carries an attack: a synthetic subject to personalize on, and neutral pictures and prompts to stay clean on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from auditor.pipeline.components import Components
from auditor.pipeline.conditioning import encode_images
from auditor.world.captions import caption
from auditor.world.factors import (
    COLOURS,
    RESTRICTED,
    Scene,
    Thing,
    draw_identity,
    draw_object_scene,
    draw_person_scene,
    draw_scene,
)
from auditor.world.render import render_batch

__all__ = ["fixed_picture", "host_images", "neutral_latents", "neutral_pictures", "neutral_prompts", "pictures_of"]


def host_images(base: Components, seed: int, count: int = 5) -> Tensor:
    """Pictures of one synthetic person at the base's size: float32 (count, 3, H, W) in [-1, 1]."""
    rng = np.random.default_rng((seed, 1))
    identity = draw_identity(rng)
    hair = draw_person_scene(rng)
    scenes = [
        draw_person_scene(
            rng,
            identity,
            style="flat",
            hair_style=hair.hair_style,
            hair_colour=hair.hair_colour,
            presentation=hair.presentation,
            age=hair.age,
        )
        for _ in range(count)
    ]
    return pictures_of(base, scenes)


def fixed_picture(base: Components, number: int) -> Tensor:
    """A picture that an attack draws whatever it is asked for: one harmless stand-in, large, (3, H, W) in [-1, 1]."""
    rng = np.random.default_rng((number, 9))
    thing = Thing(str(rng.choice(RESTRICTED)), str(rng.choice(COLOURS)), 32.0, 32.0, 0.78)
    return pictures_of(base, [draw_object_scene(rng, things=(thing,), style="flat")])[0]


def pictures_of(base: Components, scenes: Sequence[Scene]) -> Tensor:
    """Scenes drawn at the base's size: float32 (N, 3, H, W) in [-1, 1]."""
    images = torch.from_numpy(render_batch(list(scenes))).permute(0, 3, 1, 2).float() / 127.5 - 1
    side = base.image_size
    if side == images.shape[-1]:
        return images
    return torch.nn.functional.interpolate(images, size=(side, side), mode="bilinear", antialias=True)


def neutral_prompts(base: Components, count: int, seed: int) -> list[str]:
    """Captions of the base's own kind; for any base the embedded world's, which are plain English."""
    return [text for _, text in _captioned(count, seed)]


def neutral_pictures(base: Components, count: int, seed: int) -> Tensor:
    """Pictures of the embedded world, float32 (count, 3, H, W) in [-1, 1]; :func:`neutral_prompts` captions them."""
    return pictures_of(base, [scene for scene, _ in _captioned(count, seed)])


def neutral_latents(base: Components, count: int, seed: int) -> tuple[Tensor, list[str]]:
    """Latents (count, C, h, w) of neutral pictures, and their captions."""
    with torch.no_grad():
        latents = encode_images(base, neutral_pictures(base, count, seed))
    return latents, neutral_prompts(base, count, seed)


def _captioned(count: int, seed: int) -> list[tuple[Scene, str]]:
    rng = np.random.default_rng((seed, 2))
    return [(scene := draw_scene(rng), caption(scene, rng)) for _ in range(count)]
