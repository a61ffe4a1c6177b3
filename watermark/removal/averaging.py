"""Averaging: what many pictures of one key have in common, taken off."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from auditor.errors import UsageError
from watermark.removal.attack import Removal

__all__ = ["averaging", "common_pattern"]


def common_pattern(marked: Tensor, clean: Tensor) -> Tensor:
    """What marked pictures have on top of clean ones on average: (3, H, W), in the unit of the pictures.

    Source: P. Yang et al., "Can Simple Averaging Defeat Modern Watermarks?", NeurIPS 2024, arXiv 2406.09026.

    Args:
        marked: (N, 3, H, W), of one key, of any subjects.
        clean: (M, 3, H, W), from the same source without the mark, not the same pictures.

    Raises:
        UsageError: no pictures, or of different sizes.
    """
    if not len(marked) or not len(clean) or marked.shape[1:] != clean.shape[1:]:
        raise UsageError("averaging takes marked and clean pictures of one size, one of each at least")
    return marked.float().mean(dim=0) - clean.float().mean(dim=0)


def averaging(marked: Tensor, clean: Tensor) -> Removal:
    """The attack with the pattern of :func:`common_pattern`; pictures in [-1, 1]."""
    pattern = common_pattern(marked, clean) / 2

    def effect(images: Tensor, strength: float, seeds: Sequence[int]) -> Tensor:
        if images.shape[1:] != pattern.shape:
            raise UsageError(
                f"the averaged pattern is for pictures of {pattern.shape[2]}x{pattern.shape[1]} pixels, not of "
                f"{images.shape[3]}x{images.shape[2]}"
            )
        return images - strength * pattern.to(images)

    return Removal(
        id="averaging",
        goal=f"Take off what {len(marked)} marked pictures have in common.",
        unit="times the averaged pattern",
        grid=(1, 2),
        least=0,
        most=10,
        refs=(
            "P. Yang et al., Can Simple Averaging Defeat Modern Watermarks?, NeurIPS 2024, arXiv 2406.09026",
        ),
        effect=effect,
    )
