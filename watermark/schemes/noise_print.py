"""``noise_print``: the noise itself is the mark."""

from __future__ import annotations

import math

from auditor.errors import UsageError
from auditor.registry import WATERMARKS, register
from watermark.detection import Detection
from watermark.engine.prints import best_print
from watermark.keys import KEY_BYTES, MasterKey
from watermark.scheme import (
    Capacity,
    FloatArray,
    Latents,
    LatentScheme,
    Shape,
    checked_payload,
    fresh_noise,
    sign_safe,
)

__all__ = ["NoisePrint"]

_LEAST = 256


@register(WATERMARKS, "noise_print")
class NoisePrint(LatentScheme):
    """Ordinary noise from a keyed hash of the nonce, and the question whether a picture was drawn from it.

    As published, a seed is hashed and the threshold for the correlation is a bound on a spherical cap. Here the tail of
    the cosine is computed exactly, and pictures are whitened first, which leaves its null distribution as it is.
    """

    id = "noise_print"
    goal = "Claim pictures by the noise that they were drawn from; needs no denoiser and changes nothing."
    refs = ("N. Goren et al., NoisePrints, ICLR 2026, arXiv 2510.13793",)
    limits = (
        "Has no blind header: the detector needs a log of issued nonces. Carries no payload. Lost under rotation, "
        "flips and crops that are not undone first, and where the sampler adds noise of its own."
    )
    isotropic = True

    def capacity(self, shape: Shape) -> Capacity:
        """See :meth:`LatentScheme.capacity`; from 256 values on. Keys are directions, one a master key and nonce."""
        n = math.prod(shape)
        if n < _LEAST:
            raise UsageError(f"noise_print needs {_LEAST} latent values or more, and there are {n}")
        return Capacity(0, 0, n, 8.0 * KEY_BYTES, "The nonce must be known: keep a log of issued nonces.")

    def embed(self, key: MasterKey, nonce: bytes, shape: Shape, payload: bytes = b"") -> Latents:
        """See :meth:`LatentScheme.embed`."""
        checked_payload(payload, self.capacity(shape))
        return sign_safe(fresh_noise(key, "noise_print", nonce, shape))

    def _detect(
        self, latents: FloatArray, held: Capacity, key: MasterKey, nonces: tuple[bytes, ...],
        payload: bytes | None, seed: int,
    ) -> Detection:  # fmt: skip
        """Raises ``UsageError`` also where no nonce is given."""
        if not nonces:
            raise UsageError(
                "noise_print cannot be read blindly: name the issued nonces, or mark with tail_sign"
            )
        drawn = (
            (nonce, b"", self.embed(key, nonce, latents.shape).astype(float)) for nonce in dict.fromkeys(nonces)
        )
        return best_print(self.id, latents, drawn, held.floor)
