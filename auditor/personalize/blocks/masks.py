"""Where the subject is: masks that a user drew for their pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from auditor.errors import UsageError
from auditor.personalize.images import load_images, picture_paths
from auditor.text import inert

__all__ = ["load_masks", "to_latent_grid"]


def load_masks(folder: Path, pictures: Path, side: int) -> Tensor:
    """Masks of pictures, white where the subject is, cut and scaled as the pictures are: (N, 1, side, side) in [0, 1].

    Args:
        folder: one mask a picture, called like it; the ending may differ.
        pictures: the folder of pictures, whose order the masks take.
        side: pixels of a side.

    Raises:
        UsageError: a picture has no mask, a mask no picture, or a mask cannot be read or is black all over.
    """
    masks = (load_images(folder, side).mean(1, keepdim=True) + 1) / 2
    named, wanted = _stems(folder), _stems(pictures)
    for name in wanted:
        if name not in named:
            raise UsageError(f"picture '{inert(name, 60)}' has no mask in '{inert(str(folder), 200)}'")
    if len(named) != len(wanted) or len(masks) != len(wanted):
        raise UsageError(f"{len(wanted)} pictures need as many masks, not {len(masks)}")
    for name, mask in zip(named, masks, strict=True):
        if not bool((mask > 0.5).any()):
            raise UsageError(f"the mask '{inert(name, 60)}' is black all over; paint the subject white")
    return masks


def to_latent_grid(masks: Tensor, size: Sequence[int]) -> Tensor:
    """Masks (N, 1, H, W) averaged down to (N, 1, h, w)."""
    return nn.functional.interpolate(masks, tuple(size), mode="area")


def _stems(folder: Path) -> list[str]:
    return [path.stem for path in picture_paths(folder)]
