"""Brightness and contrast."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from watermark.removal.attack import Removal

__all__ = ["BRIGHTNESS", "CONTRAST"]

_LUMA = (0.2989, 0.587, 0.114)
_REFS = ("B. An et al., WAVES, ICML 2024, arXiv 2401.08573",)


def _brighter(images: Tensor, factor: float, seeds: Sequence[int]) -> Tensor:
    return images * factor


def _contrasted(images: Tensor, factor: float, seeds: Sequence[int]) -> Tensor:
    luma = images.new_tensor(_LUMA).view(1, 3, 1, 1)
    grey = (images * luma).sum(dim=1, keepdim=True).mean(dim=(2, 3), keepdim=True)
    return grey + factor * (images - grey)


BRIGHTNESS = Removal(
    id="brightness",
    goal="Multiply every value; what passes white is lost.",
    unit="factor",
    grid=(0.5, 1.5, 2, 6),
    least=0,
    most=10,
    refs=_REFS,
    effect=_brighter,
)
CONTRAST = Removal(
    id="contrast",
    goal="Push values away from the picture's mean grey, or towards it.",
    unit="factor",
    grid=(0.5, 1.5, 2),
    least=0,
    most=10,
    refs=_REFS,
    effect=_contrasted,
)
