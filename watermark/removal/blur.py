"""Gaussian blur."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from watermark.removal.attack import Removal

__all__ = ["BLUR"]

_REACH = 4.0
"""Standard deviations at which the kernel ends."""


def _blurred(images: Tensor, sigma: float, seeds: Sequence[int]) -> Tensor:
    radius = int(_REACH * sigma + 0.5)
    steps = torch.arange(-radius, radius + 1, dtype=torch.float32, device=images.device)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, -1)
    padded = F.pad(images, (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel[..., None], groups=3), kernel[:, :, None], groups=3)


BLUR = Removal(
    id="blur",
    goal="Blur with a Gaussian kernel.",
    unit="standard deviation in pixels",
    grid=(0.5, 1, 2, 4),
    least=0.05,
    most=32,
    refs=("Y. Wen et al., Tree-Ring Watermarks, NeurIPS 2023, arXiv 2305.20030",),
    effect=_blurred,
)
