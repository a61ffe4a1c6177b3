"""``W' = W * (1 + D)`` with D of rank three at most (weight offsets of E4T and SigStyle, arXiv 2502.13997)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auditor.personalize.blocks.layers.adapted import Change

__all__ = ["MultiplicativeChange"]


class MultiplicativeChange(Change):
    """Offsets generated from two vectors through two linear maps with biases: ``D = (R x)(C y)^T + b_r 1^T + 1 b_c^T``.

    Args:
        layer: the frozen layer; zeros of its weight stay zero.
        generator: draws vectors and maps; the column map starts at zero, so that D does.
        width: of the two vectors.
    """

    def __init__(self, layer: nn.Linear, generator: torch.Generator, width: int = 8) -> None:
        super().__init__()
        rows, columns = layer.weight.shape
        self._frozen = [layer]  # in a list: it is not a part of this module

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        self.x, self.y = nn.Parameter(normal(width)), nn.Parameter(normal(width))
        self.row_map = nn.Parameter(normal(rows, width) / width)
        self.column_map = nn.Parameter(torch.zeros(columns, width))
        self.row_bias, self.column_bias = nn.Parameter(torch.zeros(rows)), nn.Parameter(torch.zeros(columns))

    def offsets(self) -> Tensor:
        """D, (out, in)."""
        product = torch.outer(self.row_map @ self.x, self.column_map @ self.y)
        return product + self.row_bias[:, None] + self.column_bias[None]

    def forward(self, x: Tensor) -> Tensor:
        """``x (W * D)^T``."""
        return F.linear(x, self.delta())

    def delta(self) -> Tensor:
        """``W * D``."""
        return self._frozen[0].weight.float() * self.offsets()
