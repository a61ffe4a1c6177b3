"""Fewer bits a weight."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor

from auditor.errors import UsageError
from auditor.pipeline.components import Components
from watermark.removal.weights.swapping import matrices, swapped

__all__ = ["quantised"]


def quantised(components: Components, bits: int) -> AbstractContextManager[None]:
    """The denoiser with weights of so many bits: symmetric, one scale an output channel, rounded to the nearest.

    Source: the plain scheme of M. Nagel et al., A White Paper on Neural Network Quantization, arXiv 2106.08295.

    Args:
        components: whose denoiser it is.
        bits: 2 to 16.

    Raises:
        UsageError: another number of bits.
    """
    if not 2 <= bits <= 16:
        raise UsageError(f"weights can have 2 to 16 bits, not {bits}")
    return swapped({weight: _rounded(weight.data, bits) for weight in matrices(components.denoiser_model)})


def _rounded(weight: Tensor, bits: int) -> Tensor:
    levels = 2 ** (bits - 1) - 1
    rows = weight.float().flatten(1)
    scale = rows.abs().amax(dim=1, keepdim=True) / levels
    whole = torch.where(scale > 0, rows / scale, torch.zeros_like(rows)).round()
    rounded: Tensor = (whole * scale).view_as(weight)
    return rounded
