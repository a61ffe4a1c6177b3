"""Averaging: what many marked pictures have in common, put onto others."""

from __future__ import annotations

from torch import Tensor

from auditor.errors import UsageError
from watermark.forgery.forged import Forged
from watermark.removal.averaging import common_pattern

__all__ = ["averaged"]


def averaged(cover: Tensor, marked: Tensor, clean: Tensor, *, gain: float = 1.0) -> Forged:
    """Adds the averaged pattern of one key to covers; works where all pictures of a key have one pattern.

    Source: P. Yang et al., "Can Simple Averaging Defeat Modern Watermarks?", NeurIPS 2024, arXiv 2406.09026.

    Args:
        cover: (B, 3, H, W) in [-1, 1].
        marked: (N, 3, H, W) in [-1, 1], of one key.
        clean: (M, 3, H, W) in [-1, 1], of the same source, unmarked.
        gain: what the pattern is multiplied by.

    Raises:
        UsageError: no pictures, or of different sizes.
    """
    pattern = common_pattern(marked, clean)
    if cover.shape[1:] != pattern.shape:
        raise UsageError("covers have the size of the marked pictures")
    return Forged((cover + gain * pattern.to(cover)).clamp(-1, 1), 0, len(marked))
