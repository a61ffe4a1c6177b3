"""Whether a mark that was found belongs to the picture that it was found in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from auditor.contracts import JsonValue
from watermark.detection import Detection
from watermark.forgery.anchors import picture_anchors
from watermark.forgery.binding import Binding, binding_of
from watermark.forgery.replay import Standing, distance, perceptual_hash, standing
from watermark.issued import Issued
from watermark.keys import NONCE_BYTES, MasterKey
from watermark.scheme import Capacity

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Witness", "bound_length", "with_whole_nonce", "witness"]


@dataclass(frozen=True)
class Witness:
    """What speaks for or against a mark.

    Attributes:
        standing: what the log says of nonce and picture; None if no log was asked.
        binding: what the nonce says of the picture; None if that was not asked.
    """

    standing: Standing | None = None
    binding: Binding | None = None

    @property
    def against(self) -> str:
        """Why the mark does not belong to the picture, in a few words; empty if nothing speaks against it."""
        if self.standing is Standing.NEVER_ISSUED:
            return "its nonce was never issued"
        if self.standing is Standing.OTHER_PICTURE:
            return "its nonce was issued for another picture"
        if self.binding is not None and self.binding.anchor is None:
            return "its nonce is not bound to what the picture shows"
        return ""

    def document(self) -> dict[str, JsonValue]:
        """As JSON values, without what was not asked."""
        told: dict[str, JsonValue] = {}
        if self.standing is not None:
            told["standing"] = str(self.standing)
        if self.binding is not None:
            told["binding"] = self.binding.document()
        return told


def bound_length(capacity: Capacity) -> int:
    """Bytes of the nonce that a detector gets back: those of the blind header, or all where the log is asked."""
    return capacity.nonce_bits // 8 or NONCE_BYTES


def with_whole_nonce(found: Detection, capacity: Capacity) -> Detection:
    """The detection with as much of its nonce as every detector gets back, whether it read blindly or with the log."""
    return found if found.nonce is None else replace(found, nonce=found.nonce[: bound_length(capacity)])


def witness(
    key: MasterKey, nonce: bytes, image: Tensor, length: int, issued: Sequence[Issued] | None, bind: bool
) -> Witness:
    """Asks the log and the binding of a nonce that was found.

    Args:
        key: the master key.
        nonce: as it was read, ``length`` bytes at least.
        image: (3, H, W) in [-1, 1].
        length: :func:`bound_length`.
        issued: the log; not asked if None.
        bind: whether to ask the binding.

    Raises:
        UsageError: the scheme carries too little of a nonce to bind it.
    """
    known = None if issued is None else _standing(nonce[:length], image, length, issued)
    bound = binding_of(key, nonce, picture_anchors(image), length) if bind else None
    return Witness(known, bound)


def _standing(nonce: bytes, image: Tensor, length: int, issued: Sequence[Issued]) -> Standing:
    entries = [entry for entry in issued if bytes.fromhex(entry.nonce)[:length] == nonce]
    looks = [int(entry.look, 16) for entry in entries if entry.look]
    if not entries or looks:
        # A nonce that was issued twice stands for either of its pictures.
        seen = perceptual_hash(image)
        nearest = min(looks, key=lambda look: distance(look, seen), default=0)
        return standing(nonce, image, {nonce: nearest} if looks else {})
    return Standing.ISSUED
