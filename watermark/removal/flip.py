"""The mirror image."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from watermark.removal.attack import Removal

__all__ = ["FLIP"]


def _mirrored(images: Tensor, strength: float, seeds: Sequence[int]) -> Tensor:
    return images.flip(-1)


FLIP = Removal(
    id="flip",
    goal="Mirror left and right.",
    unit="times",
    grid=(1,),
    least=1,
    most=1,
    refs=("K. Li et al., GaussMarker, ICML 2025, arXiv 2506.11444",),
    effect=_mirrored,
    moves=True,
)
