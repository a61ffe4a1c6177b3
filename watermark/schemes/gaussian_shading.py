"""``gaussian_shading``: every sign carries the message, many times over."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from auditor.errors import UsageError
from auditor.registry import WATERMARKS, register
from watermark.detection import Detection
from watermark.engine.logged import LoggedSigns
from watermark.engine.normals import signed_normals
from watermark.keys import MasterKey
from watermark.scheme import (
    Capacity,
    FloatArray,
    Latents,
    LatentScheme,
    Shape,
    checked_nonce,
    checked_payload,
    sign_safe,
)

__all__ = ["GaussianShading"]

_LEAST = 256


@register(WATERMARKS, "gaussian_shading")
class GaussianShading(LatentScheme):
    """Gaussian Shading with a fresh key stream for every picture.

    As published, one stream was used for all pictures, which two of them give away, and bits were voted by an even
    number of copies, where a tie reads as 0 and an all-zero message is found in unmarked pictures. Here copies are odd
    in number, places and signs come from the nonce, sums are soft, and the test needs no threshold.
    """

    id = "gaussian_shading"
    goal = "Mark starting noise by the sign of every value, for pictures whose nonces are logged."
    refs = ("Z. Yang et al., Gaussian Shading, CVPR 2024, arXiv 2404.04956",)
    limits = (
        "Has no blind header: the detector needs a log of issued nonces. Lost under rotation, flips and crops that are "
        "not undone first."
    )
    isotropic = True

    def capacity(self, shape: Shape) -> Capacity:
        """See :meth:`LatentScheme.capacity`; 8 bits from 256 values on, then 16, 64 and, from 16,384 on, 256."""
        n = int(np.prod(shape))
        if n < _LEAST:
            raise UsageError(f"gaussian_shading needs {_LEAST} latent values or more, and there are {n}")
        bits = next(bits for least, bits in ((16384, 256), (4096, 64), (1024, 16), (_LEAST, 8)) if n >= least)
        return Capacity(0, bits, n, float(n), "The nonce must be known: keep a log of issued nonces.")

    def embed(self, key: MasterKey, nonce: bytes, shape: Shape, payload: bytes = b"") -> Latents:
        """See :meth:`LatentScheme.embed`."""
        held = self.capacity(shape)
        word = checked_payload(payload, held)
        stream, code = key.stream("magnitudes", checked_nonce(nonce)), _code(held)
        order, signs = code.order(key, nonce), code.written(key, nonce, word)
        out = np.empty(held.n)
        out[order] = signed_normals(signs[order], stream)
        return sign_safe(out.reshape(shape))

    def _detect(
        self, latents: FloatArray, held: Capacity, key: MasterKey, nonces: tuple[bytes, ...],
        payload: bytes | None, seed: int,
    ) -> Detection:  # fmt: skip
        """Raises ``UsageError`` also where no nonce is given."""
        if not nonces:
            raise UsageError(
                "gaussian_shading cannot be read blindly: name the issued nonces, or mark with tail_sign"
            )
        return _code(held).detect(key, nonces, latents.ravel(), payload, seed)

    def fingerprints(
        self, latents: FloatArray, key: MasterKey, nonce: bytes, payloads: Sequence[bytes]
    ) -> FloatArray:
        """See :meth:`LatentScheme.fingerprints`: one soft value a bit."""
        return _code(self.capacity(latents.shape)).fingerprints(latents.ravel(), key, nonce, payloads)


def _code(held: Capacity) -> LoggedSigns:
    return LoggedSigns(GaussianShading.id, held.n, held.payload_bits, held.floor)
