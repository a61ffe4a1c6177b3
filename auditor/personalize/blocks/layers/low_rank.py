"""``delta-W = scale * up @ down`` (LoRA, Hu et al., ICLR 2022, arXiv 2106.09685); a factor may be given and frozen."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auditor.personalize.blocks.layers.adapted import Change

__all__ = ["LowRankChange"]


class LowRankChange(Change):
    """A low-rank change.

    Args:
        down: the input factor (r, in) at the start.
        out_features: rows of the other factor, which starts at zero.
        scale: what the product is multiplied by.
        frozen_down: whether ``down`` stays as it is (Orthogonal Adaptation, arXiv 2312.02432).
    """

    def __init__(self, down: Tensor, out_features: int, scale: float = 1.0, frozen_down: bool = False) -> None:
        super().__init__()
        self.scale = scale
        if frozen_down:
            self.register_buffer("down", down.float())
        else:
            self.down = nn.Parameter(down.float())
        self.up = nn.Parameter(torch.zeros(out_features, len(down)))

    def forward(self, x: Tensor) -> Tensor:
        """``scale * x @ down^T @ up^T``."""
        return self.scale * F.linear(F.linear(x, self.down), self.up)

    def delta(self) -> Tensor:
        """``scale * up @ down``."""
        return self.scale * (self.up @ self.down)
