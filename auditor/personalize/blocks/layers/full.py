"""A change of a whole weight, every entry free (Custom Diffusion trains keys and values so, arXiv 2212.04488)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auditor.personalize.blocks.layers.adapted import Change

__all__ = ["FullChange"]


class FullChange(Change):
    """A dense change of ``layer``, zero at the start."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(layer.weight.shape))

    def forward(self, x: Tensor) -> Tensor:
        """``x value^T``."""
        return F.linear(x, self.value)

    def delta(self) -> Tensor:
        """The change itself."""
        return self.value
