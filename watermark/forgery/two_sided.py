"""A test on both sides: noise whose signs were all turned over is a mark that somebody tried to take off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from watermark.detection import Detection

__all__ = ["two_sided"]


def two_sided(latents: Any, test: Callable[[Any], Detection]) -> Detection:
    """The better of what the latents and their negative say, at two looks.

    A removal that drives inverted noise to its negative does not pass for an unmarked picture then.

    Source: the two-sided distance of arXiv 2604.06662.

    Args:
        latents: inverted, (C, h, w).
        test: what one picture's latents say.
    """
    plain, turned = test(latents), test(-latents)
    best = plain if plain.p_value <= turned.p_value else turned
    return best.corrected(2).noting(turned_over=best is turned)
