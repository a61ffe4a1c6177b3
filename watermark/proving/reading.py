"""Reading marks from pictures of a unit: how sure, what payload, which user."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from watermark.detection import Detection
from watermark.inversion import Reached, climb
from watermark.keys import MasterKey
from watermark.proving.bench import Batch, Bench, as_images
from watermark.scheme import Capacity, LatentScheme, bits_of, checked_latents
from watermark.stress import whole_latents, whole_picture
from watermark.tracing import user_payload

__all__ = ["BLIND", "LOGGED", "STRICT", "Read", "read_marks", "readings_of", "test_of"]

BLIND, LOGGED = "blind", "log"
STRICT = 1e-6
"""The level at which pictures leave the ladder; what is found at milder ones is counted from the same p-values."""


@dataclass(frozen=True)
class Read:
    """What one reading says of one picture.

    Attributes:
        p: p-value.
        floor: the smallest that there could have been.
        steps: of the inversion it was found at.
        wrong: share of payload bits that were read wrongly; None without a payload.
        user: whether the right one of all users is the likeliest, alone; None where nobody can be told.
    """

    p: float
    floor: float
    steps: int
    wrong: float | None
    user: bool | None

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def readings_of(held: Capacity) -> tuple[str, ...]:
    """``blind`` with the key alone, ``log`` with the issued nonces; only the latter without a nonce to read."""
    return (BLIND, LOGGED) if held.nonce_bits else (LOGGED,)


def test_of(scheme: LatentScheme, bench: Bench, key: MasterKey, nonces: Sequence[bytes], reading: str) -> Any:
    """From inverted latents to a detection; of pictures that were cut, the rest counts as unknown."""
    given = () if reading == BLIND else tuple(nonces)

    def test(latents: Any) -> Detection:
        return scheme.detect(whole_picture(latents, bench.shape), key, nonces=given)

    return test


def read_marks(
    bench: Bench, scheme: LatentScheme, batch: Batch, images: Tensor | None = None, identify: bool = False
) -> dict[str, Any]:
    """Every reading of a chunk, each by a ladder of its own, inverted with the base alone.

    Args:
        bench: the base.
        scheme: that marked the pictures.
        batch: key, nonces and payloads.
        images: (B, 3, H, W) in [-1, 1], attacked; as they were drawn by default.
        identify: whether to look for the user as well.

    Returns:
        For each reading the documents of :class:`Read`, and ``seconds`` of the processor by reading.
    """
    seen = as_images(batch.pixels) if images is None else whole_latents(bench.view, images)
    out: dict[str, Any] = {"seconds": {}}
    for name in readings_of(scheme.capacity(bench.shape)):
        begun = time.process_time()
        reached = climb(bench.view, seen, test_of(scheme, bench, batch.key, batch.nonces, name), STRICT)
        out["seconds"][name] = time.process_time() - begun
        out[name] = [
            _read(bench, scheme, batch, i, one, identify).document() for i, one in enumerate(reached)
        ]
    return out


def _read(bench: Bench, scheme: LatentScheme, batch: Batch, i: int, at: Reached, identify: bool) -> Read:
    found = at.detection
    wrong = None
    if batch.payloads[i]:
        wrong = float((bits_of(found.payload) != bits_of(batch.payloads[i])).mean())
    user = None
    if identify:
        user = _right_user(bench, scheme, batch, i, found, whole_picture(at.latents, bench.shape))
    return Read(found.p_value, found.floor, at.rung.steps, wrong, user)


def _right_user(
    bench: Bench, scheme: LatentScheme, batch: Batch, i: int, found: Detection, values: Any
) -> bool | None:
    """Whether the likeliest user, as ``watermark.tracing`` orders them, is the right one."""
    bits = scheme.capacity(bench.shape).payload_bits
    if type(scheme).fingerprints is LatentScheme.fingerprints or 2**bits < len(bench.users):
        return None
    payloads = [user_payload(batch.key, user, bits) for user in bench.users]
    rows = scheme.fingerprints(checked_latents(values), batch.key, found.nonce or b"", payloads)
    sizes = np.linalg.norm(rows, axis=1)
    agreeing = rows.sum(axis=1) / np.where(sizes > 0, sizes, 1.0)
    mine = batch.users[i]
    # Whoever shares the payload cannot be told apart.
    return bool(agreeing[mine] == agreeing.max() and (agreeing == agreeing.max()).sum() == 1)
