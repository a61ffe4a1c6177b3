"""Copy: what a smoother takes off a marked picture, put onto another."""

from __future__ import annotations

from torch import Tensor

from auditor.errors import UsageError
from watermark.forgery.forged import Forged
from watermark.removal.blur import BLUR

__all__ = ["copied"]


def copied(cover: Tensor, marked: Tensor, *, gain: float = 1.0, sigma: float = 1.0) -> Forged:
    """Adds the fine structure of marked pictures to covers. No model and no gradient is needed.

    Source: M. Kutter, S. Voloshynovskiy and A. Herrigel, "The Watermark Copy Attack", SPIE 3971, 2000.

    Args:
        cover: (B, 3, H, W) in [-1, 1].
        marked: (B, 3, H, W) in [-1, 1].
        gain: what the structure is multiplied by.
        sigma: of the blur that stands for the picture without its mark, in pixels.

    Raises:
        UsageError: another number of covers than of marked pictures, or of another size.
    """
    if cover.shape != marked.shape:
        raise UsageError("each marked picture takes one cover of the same size")
    structure = marked - BLUR.apply(marked, sigma, [0] * len(marked))
    return Forged((cover + gain * structure).clamp(-1, 1), 0, len(marked))
