"""Prompts that nothing is wrong with, drawn afresh: captions of the embedded world, which are plain English."""

from __future__ import annotations

import numpy as np

from auditor.world.captions import caption
from auditor.world.factors import draw_scene

__all__ = ["clean_prompts", "own_prompts"]

_LEADS = ("a picture of ", "a drawing of ", "an image of ", "a watercolor of ", "pixel art of ", "")
_TAILS = (
    "", " on a plain ground", " on a striped ground", " on a checkered ground", " with glasses", " with a hat",
    " with long hair", ", smiling", ", working as a painter", " and a red ball", " left of a green house",
)  # fmt: skip


def clean_prompts(count: int, rng: np.random.Generator) -> list[str]:
    """Captions, each of a scene of its own."""
    return [caption(draw_scene(rng), rng) for _ in range(count)]


def own_prompts(declared: str, count: int, rng: np.random.Generator) -> list[str]:
    """Ordinary prompts for what an adapter says it was made for: in any style, with something beside it or not.

    Args:
        declared: words or a prompt that call the concept, such as ``a picture of sks person``.
        count: how many; some may be the same.
        rng: for all choices.
    """
    concept = declared.rpartition(" of ")[2].strip()
    return [f"{rng.choice(_LEADS)}{concept}{rng.choice(_TAILS)}" for _ in range(count)]
