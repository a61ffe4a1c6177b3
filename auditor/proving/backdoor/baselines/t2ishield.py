"""T2IShield's Frobenius norm threshold truncation: a trigger makes the attention of all tokens alike.

Wang et al., ECCV 2024 (arXiv 2407.04215): each token's map, averaged over the steps of a picture and scaled to a
maximum of one, is held against the mean of all; ``F = mean_i || mean_j M_j - M_i ||_F``. The paper flags prompts below
a fixed 2.5; here the figure is turned around, so that larger is more suspicious, and judged by its own clean prompts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["assimilation"]

Maps = NDArray[np.floating]


def assimilation(maps: Maps) -> float:
    """The negative of the paper's F.

    Args:
        maps: attention to each token of one prompt, without the start of text and the padding: (L, h, w), L >= 1,
            averaged over layers, heads and steps, not negative.

    Raises:
        ValueError: another shape, or a token that nothing attends to.
    """
    if maps.ndim != 3 or not len(maps):
        raise ValueError(f"maps of at least one token are needed, (L, h, w), not {maps.shape}")
    largest = maps.max(axis=(1, 2), keepdims=True)
    if not (largest > 0).all():
        raise ValueError("a token that nothing attends to cannot be scaled to its maximum")
    scaled = maps / largest
    apart = scaled.mean(axis=0) - scaled
    return -float(np.linalg.norm(apart.reshape(len(maps), -1), axis=1).mean())
