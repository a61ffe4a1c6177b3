"""What a trained watermark is: a network reads pictures without any key, and the key judges what was read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from auditor.errors import UsageError
from watermark.detection import Detection
from watermark.engine.graphic import TILE, drawn
from watermark.engine.qr import SIDE
from watermark.keys import MasterKey
from watermark.scheme import Capacity, FloatArray, Shape, checked_nonce, checked_payload

if TYPE_CHECKING:
    from torch import Tensor

    from auditor.pipeline.view import View

__all__ = ["FACTOR", "PictureScheme", "checked_reading", "whole_tiles"]

FACTOR = 4
"""Pixels a latent, of the autoencoder that the networks work beside."""
_CHANNELS = 4


class PictureScheme(ABC):
    """A scheme whose mark a network reads from finished pictures. Stateless: everything comes from the arguments.

    Attributes:
        id: name on the command line.
        goal: one line.
        refs: papers.
        limits: what it cannot do, one sentence.
        embed_point: ``step`` where the mark is injected while sampling, ``weights`` where the model carries it.
    """

    id: str
    goal: str
    refs: tuple[str, ...]
    limits: str
    embed_point: str

    @abstractmethod
    def capacity(self, shape: Shape) -> Capacity:
        """What pictures with latents of this shape hold.

        Raises:
            UsageError: the scheme cannot run at this shape; the message says what it needs.
        """

    def read(self, view: View, images: Tensor) -> FloatArray:
        """What the network sees in pictures; it has never heard of any key.

        Args:
            view: the model whose encoder is used, as a rule the base.
            images: (B, 3, H, W) in [-1, 1].

        Returns:
            How dark each module of the mark is, (B, 21, 21).

        Raises:
            UsageError: the networks were not trained beside the model's autoencoder, or as :meth:`capacity`.
        """
        from watermark.networks.reading import modules_read

        self.capacity((_CHANNELS, images.shape[-2] // FACTOR, images.shape[-1] // FACTOR))
        return modules_read(view, images, self.id)

    def detect(
        self,
        reading: Any,
        /,
        key: MasterKey,
        *,
        nonces: tuple[bytes, ...] = (),
        payload: bytes | None = None,
        seed: int = 0,
    ) -> Detection:
        """Judges what was read from one picture.

        Args:
            reading: one row of :meth:`read`, in any scale.
            key: the master key.
            nonces: those issued so far; the mark does not hang on them, so that a log of them adds nothing.
            payload: where it is known; read and not tested for if None.
            seed: of the random keys of a Monte Carlo p-value.

        Raises:
            UsageError: a reading that is not finite, or empty, or of another shape.
        """
        for nonce in nonces:
            checked_nonce(nonce)
        held = self.capacity((_CHANNELS, TILE // FACTOR, TILE // FACTOR))
        given = None if payload is None else checked_payload(payload, held)
        return self._judge(checked_reading(reading), held, key, given, seed)

    @abstractmethod
    def modules(self, key: MasterKey, payload: bytes = b"") -> Any:
        """The picture of modules (21, 21) that a key puts into a picture, dark ones True.

        Raises:
            UsageError: a payload that is too long.
        """

    def embed(self, key: MasterKey, nonce: bytes, shape: Shape, payload: bytes = b"") -> NDArray[np.float32]:
        """The picture of the mark (3, H, W) in [-1, 1] for pictures with latents of this shape.

        Args:
            key: the master key.
            nonce: of the picture; the mark does not hang on it.
            shape: (C, h, w).
            payload: as many bytes as :meth:`capacity` says, or fewer.

        Raises:
            UsageError: as :meth:`capacity` and :meth:`modules`, or a nonce of another length.
        """
        checked_nonce(nonce)
        self.capacity(shape)
        return drawn(self.modules(key, payload), shape[1] * FACTOR, shape[2] * FACTOR)

    @abstractmethod
    def _judge(
        self, reading: FloatArray, held: Capacity, key: MasterKey, payload: bytes | None, seed: int
    ) -> Detection:
        """:meth:`detect` for arguments that were checked."""


def checked_reading(reading: Any) -> FloatArray:
    """Modules (21, 21) as float64, of unit mean square.

    Raises:
        UsageError: another shape, values that are not finite, or nothing but zeros.
    """
    values = reading.detach().float().cpu().numpy() if hasattr(reading, "cpu") else reading
    array: FloatArray = np.asarray(values, dtype=np.float64)
    if array.shape != (SIDE, SIDE):
        raise UsageError(f"what is read of a mark has the shape ({SIDE}, {SIDE}), not {array.shape}")
    if not bool(np.isfinite(array).all()):
        raise UsageError("what was read is not finite, so that nothing can be said about a mark")
    size = float(np.sqrt(np.mean(np.square(array))))
    if size == 0:
        raise UsageError("the picture says nothing of any module, so that nothing can be said about a mark")
    return array / size


def whole_tiles(scheme: str, shape: Shape) -> int:
    """How many whole copies of a mark latents of a shape hold.

    Raises:
        UsageError: none, or the latents are of another kind.
    """
    channels, height, width = shape
    side = TILE // FACTOR
    copies = (height // side) * (width // side)
    if channels != _CHANNELS or not copies:
        raise UsageError(
            f"{scheme} needs latents of {_CHANNELS} channels, {side}x{side} or more ({TILE} pixels of a side), "
            f"not {channels}x{height}x{width}"
        )
    return copies
