"""What a watermarking scheme for latents is: a mark from a key, and a test for that key."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from auditor.contracts import JsonValue
from auditor.errors import UsageError
from watermark.detection import Detection
from watermark.keys import NONCE_BYTES, MasterKey

__all__ = [
    "Capacity",
    "FloatArray",
    "LatentScheme",
    "Latents",
    "Shape",
    "bits_of",
    "checked_latents",
    "checked_nonce",
    "checked_payload",
    "fresh_noise",
    "sign_safe",
    "signs_of",
]

Shape: TypeAlias = tuple[int, int, int]
"""(C, h, w) of one picture's latents."""
Latents: TypeAlias = NDArray[np.float32]
FloatArray: TypeAlias = NDArray[np.float64]

_LEAST = 2.0**-24
"""The smallest magnitude that half precision keeps; one normal number in twenty million lies below."""
_SMALLEST_EXPONENT = 1074


@dataclass(frozen=True)
class Capacity:
    """What latents of one shape hold under one scheme.

    Attributes:
        nonce_bits: bits of the nonce that are read blindly, with the key alone; 0 where the nonce must be known.
        payload_bits: bits of payload, a multiple of 8; 0 for a scheme that only says present or absent.
        n: coordinates that carry the mark.
        key_bits: log2 of the number of marks that a key can choose from: no p-value lies below ``2**-key_bits``.
        note: what a user should know about it, one sentence or nothing.
    """

    nonce_bits: int
    payload_bits: int
    n: int
    key_bits: float
    note: str = ""

    @property
    def floor(self) -> float:
        """The smallest p-value of one look; the smallest positive number where the key space is larger still."""
        return math.ldexp(1.0, -min(math.ceil(self.key_bits), _SMALLEST_EXPONENT))

    def document(self) -> dict[str, JsonValue]:
        """As JSON values."""
        return asdict(self)


class LatentScheme(ABC):
    """A scheme that embeds at ``latents``. Stateless: everything comes from the arguments.

    Attributes:
        id: name on the command line.
        goal: one line.
        refs: papers.
        limits: what it cannot do, one sentence.
        isotropic: whether the noise of one nonce and payload is exactly standard normal over keys, so that its
            direction is uniform whatever the picture.
        share: of the training schedule up to which pictures are inverted before they are read: 1 for starting noise, 0
            for the encoded picture itself.
    """

    id: str
    goal: str
    refs: tuple[str, ...]
    limits: str = ""
    embed_point: str = "latents"
    isotropic: bool = False
    share: float = 1.0

    @abstractmethod
    def capacity(self, shape: Shape) -> Capacity:
        """What latents of this shape hold.

        Raises:
            UsageError: the scheme cannot run at this shape; the message says what it needs.
        """

    @abstractmethod
    def embed(self, key: MasterKey, nonce: bytes, shape: Shape, payload: bytes = b"") -> Latents:
        """Noise to sample from: float32 (C, h, w), deterministic in the arguments.

        Args:
            key: the master key.
            nonce: ``NONCE_BYTES`` fresh random bytes (:func:`watermark.keys.new_nonce`); one nonce a picture.
            shape: (C, h, w).
            payload: ``capacity(shape).payload_bits // 8`` bytes, or fewer, which are padded with zeros.

        Raises:
            UsageError: a payload that is too long, or as :meth:`capacity`.
        """

    def detect(
        self,
        latents: Any,
        key: MasterKey,
        *,
        nonces: tuple[bytes, ...] = (),
        payload: bytes | None = None,
        seed: int = 0,
    ) -> Detection:
        """Tests one picture's inverted latents (C, h, w) for the key.

        Args:
            latents: a NumPy array or a torch tensor of any real dtype, in any scale.
            key: the master key.
            nonces: those issued so far, where a log of them is kept: each is a look. Blind detection if empty.
            payload: where it is known; read and not tested for if None.
            seed: of the random keys of a Monte Carlo p-value.

        Raises:
            UsageError: latents that are not finite, constant or not three-dimensional, or as :meth:`capacity`.
        """
        for nonce in nonces:
            checked_nonce(nonce)
        values = checked_latents(latents)
        held = self.capacity(values.shape)
        given = None if payload is None else checked_payload(payload, held)
        return self._detect(values, held, key, nonces, given, seed)

    @abstractmethod
    def _detect(
        self, latents: FloatArray, held: Capacity, key: MasterKey, nonces: tuple[bytes, ...],
        payload: bytes | None, seed: int,
    ) -> Detection:  # fmt: skip
        """:meth:`detect` for arguments that were checked; ``payload`` is as long as the latents hold."""

    def fingerprints(
        self, latents: FloatArray, key: MasterKey, nonce: bytes, payloads: Sequence[bytes]
    ) -> FloatArray:
        """Signs times values (U, m) in which payloads that were drawn at random are told apart.

        The signs of one payload are independent of those of another, so that the sum of a row is a sum of fair signs
        for everybody whose payload is not in the picture.

        Args:
            latents: as :func:`checked_latents` has them.
            key: the master key.
            nonce: of the picture.
            payloads: U of them, as long as the latents hold.

        Raises:
            UsageError: the scheme tells no payloads apart.
        """
        raise UsageError(f"{self.id} tells no users apart; mark with tail_sign to trace them")


def checked_latents(latents: Any) -> FloatArray:
    """Latents (C, h, w) as float64, of unit mean square.

    Raises:
        UsageError: another number of dimensions, values that are not finite, or nothing but zeros.
    """
    # Through float32 where an array of another library holds bfloat16, which NumPy does not have.
    values = latents.detach().float().cpu().numpy() if hasattr(latents, "cpu") else latents
    array: FloatArray = np.asarray(values, dtype=np.float64)
    if array.ndim != 3 or 0 in array.shape:
        raise UsageError(f"latents of one picture have the shape (C, h, w), not {array.shape}")
    if not bool(np.isfinite(array).all()):
        raise UsageError("the latents are not finite, so that nothing can be said about a mark")
    size = float(np.sqrt(np.mean(np.square(array))))
    if size == 0:
        raise UsageError("the latents are zero everywhere, so that nothing can be said about a mark")
    return array / size


def checked_nonce(nonce: bytes) -> bytes:
    """The nonce. Raises ``UsageError`` for another length than ``NONCE_BYTES``."""
    if len(nonce) != NONCE_BYTES:
        raise UsageError(
            f"a nonce has {NONCE_BYTES} bytes ({2 * NONCE_BYTES} hexadecimal digits), not {len(nonce)}"
        )
    return nonce


def checked_payload(payload: bytes, capacity: Capacity) -> bytes:
    """The payload, padded with zeros to what the latents hold. Raises ``UsageError`` if it is longer."""
    most = capacity.payload_bits // 8
    if len(payload) > most:
        raise UsageError(f"a payload of {len(payload)} bytes does not fit: latents of this size hold {most}")
    return payload.ljust(most, b"\0")


def bits_of(word: bytes) -> NDArray[np.uint8]:
    """The bits (8 a byte,) of a word, 0 or 1, most significant of each byte first."""
    return np.unpackbits(np.frombuffer(word, dtype=np.uint8))


def signs_of(word: bytes) -> FloatArray:
    """:func:`bits_of` a word as signs: -1.0 for a 0, 1.0 for a 1."""
    return 2 * bits_of(word).astype(np.float64) - 1


def fresh_noise(key: MasterKey, purpose: str, nonce: bytes, shape: Shape) -> FloatArray:
    """Standard normal noise (C, h, w) of one picture, into which a mark is written.

    Raises:
        UsageError: as :func:`checked_nonce`.
    """
    return key.stream(purpose, checked_nonce(nonce)).normals(math.prod(shape)).reshape(shape)


def sign_safe(latents: FloatArray) -> Latents:
    """float32 in which no value is so small that half precision would lose its sign."""
    small = np.abs(latents) < _LEAST
    return np.where(small, np.copysign(_LEAST, latents), latents).astype(np.float32)
