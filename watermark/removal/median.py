"""The median over a square."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from auditor.errors import UsageError
from watermark.removal.attack import Removal

__all__ = ["MEDIAN"]


def _filtered(images: Tensor, side: float, seeds: Sequence[int]) -> Tensor:
    if side % 2 != 1:
        raise UsageError(f"the median is over a square of an odd number of pixels a side, not {side:g}")
    size = int(side)
    padded = F.pad(images, (size // 2,) * 4, mode="replicate")
    return padded.unfold(2, size, 1).unfold(3, size, 1).flatten(4).median(dim=4).values


MEDIAN = Removal(
    id="median",
    goal="Replace every value by the median over a square around it.",
    unit="pixels a side, odd",
    grid=(3, 5, 7),
    least=1,
    most=31,
    refs=("Z. Yang et al., Gaussian Shading, CVPR 2024, arXiv 2404.04956",),
    effect=_filtered,
)
