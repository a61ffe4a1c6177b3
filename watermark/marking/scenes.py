"""Pictures and captions of the embedded world, to teach marks on."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from auditor.world.captions import caption
from auditor.world.factors import draw_scene
from auditor.world.render import render_images

__all__ = ["captioned_scenes"]


def captioned_scenes(count: int, seed: int) -> tuple[Tensor, list[str]]:
    """``count`` pictures (count, 3, 64, 64) in [-1, 1], and a caption of each."""
    rng = np.random.default_rng(seed)
    scenes = [draw_scene(rng) for _ in range(count)]
    return render_images(scenes), [caption(scene, rng) for scene in scenes]
