"""A part of a picture, as it is or scaled back up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from watermark.removal.attack import Removal
from watermark.removal.resize import resized

__all__ = ["CROP", "CROP_AND_SCALE"]


def _cropped(images: Tensor, area: float, seeds: Sequence[int]) -> Tensor:
    height, width = (max(1, round(side * math.sqrt(area))) for side in images.shape[-2:])
    parts = []
    for image, seed in zip(images, seeds, strict=True):
        generator = torch.Generator().manual_seed(seed)
        spare = (image.shape[-2] - height, image.shape[-1] - width)
        top, left = (int(torch.randint(room + 1, (1,), generator=generator)) for room in spare)
        parts.append(image[:, top : top + height, left : left + width])
    return torch.stack(parts)


def _scaled_back(images: Tensor, area: float, seeds: Sequence[int]) -> Tensor:
    height, width = images.shape[-2:]
    return resized(_cropped(images, area, seeds), height, width)


CROP = Removal(
    id="crop",
    goal="Keep a part of the picture, at a random place.",
    unit="part of the area that is kept, lower is harsher",
    grid=(0.9, 0.7, 0.5),
    least=0.01,
    most=1,
    refs=(
        "Y. Wen et al., Tree-Ring Watermarks, NeurIPS 2023, arXiv 2305.20030",
        "S. Lee and N. I. Cho, ICCV 2025, arXiv 2509.07647",
    ),
    effect=_cropped,
    moves=True,
)
CROP_AND_SCALE = replace(
    CROP,
    id="crop_and_scale",
    goal="Keep a part of the picture, at a random place, and scale it to the whole size.",
    grid=(0.9, 0.75, 0.5),
    effect=_scaled_back,
)
