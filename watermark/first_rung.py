"""The cheapest question first: was a picture drawn from noise that is in the log, value by value?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from watermark.detection import Detection
from watermark.engine.prints import best_print
from watermark.issued import Issued
from watermark.keys import MasterKey
from watermark.scheme import LatentScheme, Shape, checked_latents, checked_payload

__all__ = ["print_test"]

Test = Callable[[Any], Detection]


def print_test(
    scheme: LatentScheme,
    key: MasterKey,
    issued: Sequence[Issued],
    otherwise: Test,
    payload: bytes | None = None,
) -> Test:
    """What clean latents say of the noise of all pictures in a log.

    The noise of a scheme that is isotropic hangs on key, nonce and payload, which the log has, so that all of it can be
    compared with a picture that was encoded and not inverted: :mod:`watermark.engine.prints`. That says more than the
    signs alone, and no denoiser is called.

    Args:
        scheme: that marked the pictures.
        key: the master key.
        issued: entries of the log; those of other schemes and sizes are left out.
        otherwise: asked where no noise can be made again.
        payload: looks for this one only.
    """

    def words(shape: Shape) -> list[tuple[bytes, bytes]]:
        held = scheme.capacity(shape)
        wanted = None if payload is None else checked_payload(payload, held)
        found: dict[tuple[bytes, bytes], None] = {}
        for entry in issued:
            if (entry.scheme, entry.shape) == (scheme.id, shape):
                word = checked_payload(bytes.fromhex(entry.payload), held)
                if wanted in (None, word):
                    found[bytes.fromhex(entry.nonce), word] = None
        return list(found)

    def test(latents: Any) -> Detection:
        values = checked_latents(latents)
        shape = values.shape
        drawn = words(shape) if scheme.isotropic else []
        if not drawn:
            return otherwise(latents)
        made = ((nonce, word, scheme.embed(key, nonce, shape, word).astype(np.float64)) for nonce, word in drawn)
        found = best_print(scheme.id, values, made, scheme.capacity(shape).floor)
        return found.noting(noise_print=True)

    return test
