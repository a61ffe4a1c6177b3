"""Pictures in, what the measuring networks read out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from auditor.errors import UsageError

__all__ = ["SIDE", "batched", "to_network"]

SIDE = 64
"""Pixels a side that the embedded networks read."""


def to_network(pixels: np.ndarray, device: str | torch.device = "cpu") -> Tensor:
    """uint8 (N, H, W, 3) of any size to float32 (N, 3, 64, 64) in [-1, 1], resized with anti-aliasing.

    Raises:
        UsageError: Another shape or dtype.
    """
    if pixels.ndim != 4 or pixels.shape[-1] != 3 or pixels.dtype != np.uint8:
        raise UsageError(f"Pictures must be uint8 of shape (N, H, W, 3), got {pixels.dtype} {pixels.shape}.")
    images = torch.tensor(pixels, device=device).permute(0, 3, 1, 2).float() / 127.5 - 1
    if images.shape[-2:] != (SIDE, SIDE) and len(images):
        images = F.interpolate(images, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
    return images


@torch.no_grad()
def batched(
    pixels: np.ndarray,
    function: Callable[[Tensor], Tensor],
    device: str | torch.device = "cpu",
    batch: int = 100,
) -> np.ndarray:
    """``function`` over batches of pictures, stacked: float32 (N, ...) on the CPU.

    Raises:
        UsageError: No pictures, or another shape or dtype than :func:`to_network` takes.
    """
    if len(pixels) == 0:
        raise UsageError("There are no pictures to measure.")
    parts = [
        function(to_network(pixels[start : start + batch], device)).float().cpu()
        for start in range(0, len(pixels), batch)
    ]
    return np.asarray(torch.cat(parts).numpy())
