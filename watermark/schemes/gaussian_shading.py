"""``gaussian_shading``: every sign carries the message, many times over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from auditor.errors import UsageError
from auditor.registry import WATERMARKS, register
from watermark.detection import Detection, Method
from watermark.engine.mixture import word_evidence
from watermark.engine.normals import signed_normals
from watermark.engine.sums import Agreement, agreement
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
    signs_of,
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
        stream = key.stream("magnitudes", checked_nonce(nonce))
        carried = np.repeat(signs_of(word), _copies(held))
        signs, order = _secrets(key, nonce, held.n)
        signs[: len(carried)] *= carried
        out = np.empty(held.n)
        out[order] = signed_normals(signs, stream)
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
        tried, flat = dict.fromkeys(nonces), latents.ravel()
        best = max(tried, key=lambda nonce: _strength(key, nonce, flat, held, payload))
        return self._tested(key, best, flat, held, payload, seed).corrected(len(tried))

    def fingerprints(
        self, latents: FloatArray, key: MasterKey, nonce: bytes, payloads: Sequence[bytes]
    ) -> FloatArray:
        """See :meth:`LatentScheme.fingerprints`: one soft value a bit."""
        carrying, _ = _agreeing(key, nonce, latents.ravel(), self.capacity(latents.shape))
        return np.stack([signs_of(payload) * carrying.sum(axis=1) for payload in payloads])

    def _tested(
        self, key: MasterKey, nonce: bytes, flat: FloatArray, held: Capacity, given: bytes | None, seed: int
    ) -> Detection:
        carrying, known = _agreeing(key, nonce, flat, held)
        tails: dict[Method, float] = {}
        if given is None:
            evidence = word_evidence(carrying, known)
            word, statistic = np.packbits(evidence.soft > 0).tobytes(), evidence.log_e
            p, method = evidence.settled(seed)
        else:
            sums = _known_word(carrying, known, given)
            word, statistic = given, sums.deviations
            p, method = sums.settled(seed)
            tails = {Method.CERTIFIED: sums.bound, Method.SADDLE_POINT: sums.approximate}
        return Detection(
            scheme=self.id,
            p_value=p,
            method=method,
            statistic=statistic,
            n=held.n,
            floor=held.floor,
            nonce=nonce,
            payload=word,
            tails=tails,
        )


def _strength(key: MasterKey, nonce: bytes, flat: FloatArray, held: Capacity, given: bytes | None) -> float:
    """What is larger for the likelier nonce."""
    carrying, known = _agreeing(key, nonce, flat, held)
    if given is None:
        return word_evidence(carrying, known).log_e
    return _known_word(carrying, known, given).deviations


def _agreeing(
    key: MasterKey, nonce: bytes, flat: FloatArray, held: Capacity
) -> tuple[FloatArray, FloatArray]:
    """Signs times values: (bits, copies), and those that are left over."""
    signs, order = _secrets(key, nonce, held.n)
    agreeing, copies = signs * flat[order], _copies(held)
    split = held.payload_bits * copies
    return agreeing[:split].reshape(-1, copies), agreeing[split:]


def _known_word(carrying: FloatArray, known: FloatArray, word: bytes) -> Agreement:
    return agreement(np.concatenate([(carrying * signs_of(word)[:, None]).ravel(), known]))


def _copies(held: Capacity) -> int:
    """Copies of each bit: as many as fit, an odd number, so that no vote is ever tied."""
    most = held.n // held.payload_bits
    return most - (most % 2 == 0)


def _secrets(key: MasterKey, nonce: bytes, n: int) -> tuple[FloatArray, Any]:
    """Signs (n,) and the order (n,) in which coordinates take them."""
    return key.stream("signs", nonce).signs(n), key.stream("order", nonce).permutation(n)
