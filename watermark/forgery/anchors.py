"""The captions that nonces are bound to, and which of them a prompt or a picture is nearest to.

The order is part of the tag in every bound nonce: captions are added at the end and never moved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from watermark.forgery.binding import nearest_anchors

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CAPTIONS", "NEAR", "picture_anchors", "prompt_anchor"]

_THINGS = (
    "ball", "house", "car", "star", "tree", "cat", "boat", "flower", "fish", "cup", "dog", "mushroom", "hat", "emblem",
)  # fmt: skip
_PEOPLE = (
    "young woman", "young man", "old woman", "old man", "woman with glasses", "man with glasses", "woman with a hat",
    "man with a hat", "person with long hair",
)  # fmt: skip
CAPTIONS = tuple(f"a picture of a {each}" for each in (*_THINGS, *_PEOPLE))
NEAR = 3
"""Anchors that a picture may be near to; each costs a chance of two to the minus sixteen or less."""


def prompt_anchor(prompt: str) -> int:
    """Number of the caption nearest to a prompt, in the space of the embedded dual encoder."""
    from auditor.metrics.concept import text_features

    return nearest_anchors(text_features([prompt])[0], text_features(CAPTIONS), 1)[0]


def picture_anchors(image: Tensor, count: int = NEAR) -> list[int]:
    """Numbers of the captions nearest to a picture (3, H, W) in [-1, 1], nearest first."""
    from auditor.metrics.concept import image_features, text_features

    pixels = ((image.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
    return nearest_anchors(image_features(pixels[None])[0], text_features(CAPTIONS), count)
