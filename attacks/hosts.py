"""What carries an attack: a synthetic subject to personalize on, and neutral prompts to stay clean on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from auditor.pipeline.components import Components
from auditor.world.captions import caption
from auditor.world.factors import draw_identity, draw_person_scene, draw_scene
from auditor.world.render import render_batch

__all__ = ["host_images", "neutral_prompts"]


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
    images = torch.from_numpy(render_batch(scenes)).permute(0, 3, 1, 2).float() / 127.5 - 1
    side = base.image_size
    if side == images.shape[-1]:
        return images
    return torch.nn.functional.interpolate(images, size=(side, side), mode="bilinear", antialias=True)


def neutral_prompts(base: Components, count: int, seed: int) -> list[str]:
    """Captions of the base's own kind; for any base the embedded world's, which are plain English."""
    rng = np.random.default_rng((seed, 2))
    return [caption(draw_scene(rng), rng) for _ in range(count)]
