"""``prc``: signs are a pseudorandom code word, found by its secret parity checks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from auditor.errors import UsageError
from auditor.registry import WATERMARKS, register
from watermark.detection import Detection, Method
from watermark.engine.normals import signed_normals
from watermark.engine.parity import BitArray, ParityCode
from watermark.engine.sums import Agreement, agreement
from watermark.keys import MasterKey
from watermark.scheme import (
    Capacity,
    FloatArray,
    Latents,
    LatentScheme,
    Shape,
    bits_of,
    checked_nonce,
    checked_payload,
    sign_safe,
)

__all__ = ["PRC"]

_LEAST = 1024
_FULL = 4096
_WEIGHT = 3
_TEST_BITS = 30
# Inversion noise that sign means are computed for, per unit of signal: the published value.
_VARIANCE = 1.5


@register(WATERMARKS, "prc")
class PRC(LatentScheme):
    """The pseudorandom code of the PRC watermark, for presence and for a payload.

    Information is a row of zeros that shows whether it was read rightly, the nonce and the payload. The word is
    encoded, blinded by fixed secret signs, and some of its bits are flipped at random. Over the blinding the products
    of checks are independent fair signs whatever the picture, since no check is a sum of others: the sum of their
    log-odds is a sum of signs as in every other scheme here, and has the same exact tails.

    A quarter of the latents is left out of the word and takes signs that nonce and payload fix. A word that was read
    is tested on them, which finds marks whose checks alone are too faint; as published, that it was read at all is the
    only evidence.
    """

    id = "prc"
    goal = "Mark starting noise by a pseudorandom code whose parity checks are the key."
    refs = (
        "S. Gunn, X. Zhao and D. Song, ICLR 2025, arXiv 2410.07369",
        "M. Christ and S. Gunn, CRYPTO 2024, arXiv 2402.09370",
    )
    limits = (
        "A check of three signs fades with the third power of their correlation, so that inversions must keep most "
        "signs. Undetectability is heuristic at these sizes."
    )
    isotropic = True

    def capacity(self, shape: Shape) -> Capacity:
        """See :meth:`LatentScheme.capacity`; 32 + 16 bits from 1,024 values on, 96 + 64 bits from 4,096 on."""
        n = int(np.prod(shape))
        if n < _LEAST:
            raise UsageError(f"prc needs {_LEAST:,} latent values or more, and there are {n:,}")
        nonce, payload = (32, 16) if n < _FULL else (96, 64)
        length = _length(n)
        checks = length - (_TEST_BITS + nonce + payload) - _spare(length)
        return Capacity(nonce, payload, n, float(checks))

    def embed(self, key: MasterKey, nonce: bytes, shape: Shape, payload: bytes = b"") -> Latents:
        """See :meth:`LatentScheme.embed`. As much of the nonce is used as the code carries."""
        held = self.capacity(shape)
        word = checked_payload(payload, held)
        short = checked_nonce(nonce)[: held.nonce_bits // 8]
        out = np.empty(held.n)
        out[_places(key, held)] = signed_normals(
            _signs(key, held, short, word), key.stream("magnitudes", short)
        )
        return sign_safe(out.reshape(shape))

    def _detect(
        self, latents: FloatArray, held: Capacity, key: MasterKey, nonces: tuple[bytes, ...],
        payload: bytes | None, seed: int,
    ) -> Detection:  # fmt: skip
        """Nonces are of use only together with the payload, which fix every sign."""
        flat = latents.ravel()[_places(key, held)]
        if nonces and payload is not None:
            return _known(key, held, flat, nonces, payload, seed)
        code, length = _code(key, held), _length(held.n)
        means = _means(flat[:length]) * _blinding(key, held) * (1 - 2 * _flip_rate(length))
        checks = np.arctanh(code.products(means))
        short, word, zeros = _read(code, means, held)
        marked = flat[length:] * _fingerprint(key, held, short, word)
        # If the word was read rightly, the part that it fixes says more than all checks together.
        values = np.concatenate([_unit(checks), 2 * _unit(marked)])
        found = agreement(values, (len(checks), len(values)))
        return _detection(held, found, seed, short, word, decoded=zeros)

    def fingerprints(
        self, latents: FloatArray, key: MasterKey, nonce: bytes, payloads: Sequence[bytes]
    ) -> FloatArray:
        """See :meth:`LatentScheme.fingerprints`."""
        held = self.capacity(latents.shape)
        marked = latents.ravel()[_places(key, held)][_length(held.n) :]
        short = nonce[: held.nonce_bits // 8]
        return np.stack([marked * _fingerprint(key, held, short, payload) for payload in payloads])


def _known(
    key: MasterKey, held: Capacity, flat: FloatArray, nonces: Sequence[bytes], word: bytes, seed: int
) -> Detection:
    tried = dict.fromkeys(nonce[: held.nonce_bits // 8] for nonce in nonces)
    found = {short: agreement(flat * _signs(key, held, short, word)) for short in tried}
    best = max(found, key=lambda short: found[short].deviations)
    return _detection(held, found[best], seed, best, word, decoded=False).corrected(len(tried))


def _detection(
    held: Capacity, found: Agreement, seed: int, nonce: bytes, word: bytes, decoded: bool
) -> Detection:
    p, method = found.settled(seed)
    return Detection(
        scheme=PRC.id,
        p_value=p,
        method=method,
        statistic=found.deviations,
        n=held.n,
        floor=held.floor,
        nonce=nonce,
        payload=word,
        tails={Method.CERTIFIED: found.bound, Method.SADDLE_POINT: found.approximate},
        details={"decoded": decoded},
    )


def _read(code: ParityCode, means: FloatArray, held: Capacity) -> tuple[bytes, bytes, bool]:
    """Nonce and payload as they are read, and whether the zeros with them are zeros, by chance once in 2^30."""
    rounds = int(math.log(len(means)) / math.log(_WEIGHT))
    information = code.solve(code.propagate(means, rounds))
    if information is None:
        # Rows that do not determine the information leave nothing to read, and nothing that could agree by design.
        information = np.ones(_TEST_BITS + held.nonce_bits + held.payload_bits, dtype=np.uint8)
    cut = _TEST_BITS + held.nonce_bits
    short, word = (np.packbits(part).tobytes() for part in (information[_TEST_BITS:cut], information[cut:]))
    return short, word, not information[:_TEST_BITS].any()


def _signs(key: MasterKey, held: Capacity, short: bytes, word: bytes) -> FloatArray:
    """Signs (n,) of a nonce and a payload: those of the word, then those of its fingerprint."""
    length = _length(held.n)
    carried = bits_of(short + word)
    bits: BitArray = _code(key, held).encode(np.concatenate([np.zeros(_TEST_BITS, dtype=np.uint8), carried]))
    flips = key.stream(f"flips|{word.hex()}", short).uniforms(length) < _flip_rate(length)
    coded = (1 - 2 * (bits ^ flips).astype(np.float64)) * _blinding(key, held)
    return np.concatenate([coded, _fingerprint(key, held, short, word)])


def _fingerprint(key: MasterKey, held: Capacity, short: bytes, word: bytes) -> FloatArray:
    return key.stream(f"fingerprint|{word.hex()}", short).signs(held.n - _length(held.n))


def _means(values: FloatArray) -> FloatArray:
    """Mean of the sign that was embedded, given an inverted value of unit mean square."""
    from scipy.special import erf

    return np.asarray(erf(values / math.sqrt(2 * _VARIANCE * (1 + _VARIANCE))), dtype=np.float64)


def _unit(values: FloatArray) -> FloatArray:
    size = float(np.linalg.norm(values))
    return values / size if size > 0 else values


def _length(n: int) -> int:
    """Bits of a word among n latents."""
    return 3 * n // 4


def _spare(length: int) -> int:
    """log2 of the number of possible checks: the security parameter of the published scheme."""
    return int(math.log2(math.comb(length, _WEIGHT)))


def _flip_rate(length: int) -> float:
    return 1 - math.exp2(-1 / _spare(length))


@lru_cache(maxsize=8)
def _places(key: MasterKey, held: Capacity) -> NDArray[np.intp]:
    return key.stream(f"places|{held.n}").permutation(held.n)


@lru_cache(maxsize=8)
def _code(key: MasterKey, held: Capacity) -> ParityCode:
    k, length = _TEST_BITS + held.nonce_bits + held.payload_bits, _length(held.n)
    return ParityCode.keyed(length, k, _spare(length), key.stream(f"code|{held.n}"))


@lru_cache(maxsize=8)
def _blinding(key: MasterKey, held: Capacity) -> FloatArray:
    return key.stream(f"blinding|{held.n}").signs(_length(held.n))
