"""Turning a picture about its middle."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from watermark.removal.attack import Removal

__all__ = ["ROTATION"]


def _turned(images: Tensor, degrees: float, seeds: Sequence[int]) -> Tensor:
    height, width = images.shape[-2:]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # The grid has sides of length two whatever the picture's are.
    back = [[cos, -sin * height / width, 0.0], [sin * width / height, cos, 0.0]]
    theta = torch.tensor(back, dtype=images.dtype, device=images.device).expand(len(images), 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


ROTATION = Removal(
    id="rotation",
    goal="Turn about the middle; corners that come in are black.",
    unit="degrees, counter-clockwise",
    grid=(5, 15, 45, 75, 90),
    least=-360,
    most=360,
    refs=("Y. Wen et al., Tree-Ring Watermarks, NeurIPS 2023, arXiv 2305.20030",),
    effect=_turned,
    moves=True,
)
