"""Nonces bound to what their picture is of: a defence against noise that is used again for something else.

A picture that was drawn from stolen noise carries a genuine nonce. If half of the nonce is a tag over the other half
and a rough description of the prompt, then a picture whose content is far from every prompt that the tag fits is
nobody's but a forger's. The description is a short list of captions, anchors, and their numbers: both prompts and
pictures can be compared with captions, whereas a prompt and its picture lie apart in every space of text and images.

After the semantic binding of SEAL (ICCV 2025, arXiv 2503.12172) and SemBind (arXiv 2601.20310), as a tag that any
scheme with a nonce can carry.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from auditor.contracts import JsonValue
from auditor.errors import UsageError
from watermark.keys import NONCE_BYTES, MasterKey

__all__ = ["Binding", "binding_of", "bound_nonce", "fresh_bytes", "nearest_anchors"]

_LEAST = 4


@dataclass(frozen=True)
class Binding:
    """What the tag in a nonce says of a picture.

    Attributes:
        anchor: the anchor that the nonce is bound to, if it is among those the picture is near to; otherwise None, and
            the picture is not the one that the nonce was made for.
        tried: anchors that were tried.
        chance: that a nonce with a tag of random bits would fit one of them.
    """

    anchor: int | None
    tried: int
    chance: float

    def document(self) -> dict[str, JsonValue]:
        """As JSON values."""
        return {"anchor": self.anchor, "tried": self.tried, "chance": self.chance}


def nearest_anchors(features: ArrayLike, anchors: ArrayLike, count: int) -> list[int]:
    """Numbers of the anchors nearest to a prompt or a picture by cosine, nearest first.

    Args:
        features: (D,), of a text or a picture.
        anchors: (K, D), of the captions, in the same space.
        count: how many.

    Raises:
        UsageError: other shapes, or not 1 to K of them.
    """
    one, many = np.asarray(features, dtype=np.float64), np.asarray(anchors, dtype=np.float64)
    if one.ndim != 1 or many.ndim != 2 or many.shape[1] != len(one) or not 1 <= count <= len(many):
        raise UsageError(
            f"features {one.shape} and anchors {many.shape} do not go together for {count} anchors"
        )
    likeness = many @ one / np.linalg.norm(many, axis=1)
    return [int(i) for i in np.argsort(-likeness, kind="stable")[:count]]


def fresh_bytes(length: int = NONCE_BYTES) -> int:
    """Bytes of a bound nonce that are fresh: two thirds of what the header carries, the rest is the tag."""
    if not _LEAST <= length <= NONCE_BYTES:
        raise UsageError(
            f"a header that binds carries {_LEAST} to {NONCE_BYTES} bytes of the nonce, not {length}"
        )
    return length - max(2, length // 3)


def bound_nonce(key: MasterKey, anchor: int, fresh: bytes, length: int = NONCE_BYTES) -> bytes:
    """A nonce for a picture whose prompt is nearest to ``anchor``.

    Args:
        key: the master key.
        anchor: number of the anchor.
        fresh: ``fresh_bytes(length)`` bytes from the system's source of randomness.
        length: bytes of the nonce that the scheme carries at this size, ``capacity(shape).nonce_bits // 8``.

    Raises:
        UsageError: another length, or another number of fresh bytes.
    """
    if len(fresh) != fresh_bytes(length):
        raise UsageError(
            f"a bound nonce of {length} bytes takes {fresh_bytes(length)} fresh ones, not {len(fresh)}"
        )
    return (fresh + _tag(key, anchor, fresh, length)).ljust(NONCE_BYTES, b"\0")


def binding_of(key: MasterKey, nonce: bytes, anchors: Sequence[int], length: int = NONCE_BYTES) -> Binding:
    """Whether a nonce that was read is bound to one of the anchors that the picture is near to.

    Args:
        key: the master key.
        nonce: as read, ``length`` bytes or more.
        anchors: numbers, of :func:`nearest_anchors` for the *picture*.
        length: as in :func:`bound_nonce`.

    Raises:
        UsageError: no anchor, or a nonce that is too short.
    """
    split = fresh_bytes(length)
    if not anchors or len(nonce) < length:
        raise UsageError(f"binding takes {length} bytes of nonce and one anchor or more")
    fresh, tag = nonce[:split], nonce[split:length]
    fits = [anchor for anchor in anchors if hmac.compare_digest(_tag(key, anchor, fresh, length), tag)]
    chance = min(1.0, len(anchors) * 2.0 ** (-8 * len(tag)))
    return Binding(fits[0] if fits else None, len(anchors), chance)


def _tag(key: MasterKey, anchor: int, fresh: bytes, length: int) -> bytes:
    return key.derive(f"binding|{anchor}", fresh)[: length - len(fresh)]
