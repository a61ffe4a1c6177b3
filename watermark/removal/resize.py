"""Down to a part of the size, and back up."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from watermark.removal.attack import Removal

__all__ = ["RESIZE", "resized"]


def resized(images: Tensor, height: int, width: int) -> Tensor:
    """Pictures (B, 3, H, W) at another size, bicubic, with anti-aliasing on the way down."""
    return F.interpolate(images, (height, width), mode="bicubic", antialias=True, align_corners=False)


def _down_and_up(images: Tensor, factor: float, seeds: Sequence[int]) -> Tensor:
    height, width = images.shape[-2:]
    small = resized(images, max(1, round(height * factor)), max(1, round(width * factor))).clamp(0, 1)
    return resized(small, height, width)


RESIZE = Removal(
    id="resize",
    goal="Scale down and back up.",
    unit="factor of a side, lower is harsher",
    grid=(0.75, 0.5, 0.25),
    least=0.01,
    most=1,
    refs=("Z. Yang et al., Gaussian Shading, CVPR 2024, arXiv 2404.04956",),
    effect=_down_and_up,
)
