"""Low-rank changes of convolutions as kohya's tools write them: ``lora_down`` has the kernel, ``lora_up`` is 1x1."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auditor.personalize.blocks.layers.adapted import Change

__all__ = ["ConvolutionChange"]


class ConvolutionChange(Change):
    """``conv_up(conv_down(x))`` with the stride and padding of the layer.

    Args:
        layer: the frozen convolution, one group, padded with zeros.
        rank: channels in between.
        generator: draws the down factor, with the spread of Kaiming's rule; the up factor starts at zero.
        scale: what the product is multiplied by.
    """

    def __init__(self, layer: nn.Conv2d, rank: int, generator: torch.Generator, scale: float = 1.0) -> None:
        super().__init__()
        self._stride, self._padding, self._dilation, self.scale = layer.stride, layer.padding, layer.dilation, scale
        out, within, *kernel = layer.weight.shape
        fan_in = within * kernel[0] * kernel[1]
        self.down = nn.Parameter(torch.randn(rank, within, *kernel, generator=generator) / fan_in**0.5)
        self.up = nn.Parameter(torch.zeros(out, rank, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """What is added to the layer's output (B, out, h, w)."""
        inner = F.conv2d(x, self.down, None, self._stride, self._padding, self._dilation)
        return self.scale * F.conv2d(inner, self.up)

    def delta(self) -> Tensor:
        """``scale * up @ down``, (out, in, kh, kw)."""
        return self.scale * torch.einsum("or,rikl->oikl", self.up[:, :, 0, 0], self.down)
