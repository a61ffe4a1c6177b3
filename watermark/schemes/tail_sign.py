"""``tail_sign``, the default: a blind header of signs, and a body that says more where values are large."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from auditor.errors import UsageError
from auditor.registry import WATERMARKS, register
from watermark.detection import Detection, Method
from watermark.engine.normals import signed_normals, tail_normals, tail_positions
from watermark.engine.sums import agreement
from watermark.engine.trellis import MOST_SIGNS, Trellis
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

__all__ = ["Layout", "TailSign", "layout_of"]

_LEAST = 1024
_FULL = 4096
_LONG = 16384


@dataclass(frozen=True)
class Layout:
    """How many coordinates do what.

    Attributes:
        n: all of them.
        nonce_bits: of the nonce in the header.
        nonce_signs: signs for each of these bits.
        payload_bits: of the payload.
        payload_signs: signs for each of these bits, in the tails of the body.
        known: tails whose signs the key and the nonce fix.
        fingerprint: tails whose signs the payload fixes as well.
    """

    n: int
    nonce_bits: int
    nonce_signs: int
    payload_bits: int
    payload_signs: int
    known: int
    fingerprint: int

    @property
    def header(self) -> int:
        """Coordinates of the header."""
        return self.nonce_bits * self.nonce_signs

    @property
    def body(self) -> int:
        """Coordinates of the body, of which half are tails."""
        return self.n - self.header

    @property
    def payload(self) -> int:
        """Tails that carry the payload."""
        return self.payload_bits * self.payload_signs


def layout_of(shape: Shape) -> Layout:
    """The layout for latents (C, h, w).

    Raises:
        UsageError: they are too few.
    """
    n = int(np.prod(shape))
    if n < _LEAST:
        raise UsageError(f"tail_sign needs {_LEAST:,} latent values or more, and {_shown(shape)} has {n:,}")
    small = n < _FULL
    nonce_bits, payload_bits = (32, 16) if small else (96, 64)
    header_share, payload_share = (0.5, 0.375) if small else (0.5625, 0.6)
    nonce_signs = min(MOST_SIGNS, int(header_share * n) // nonce_bits)
    tails = (n - nonce_bits * nonce_signs) // 2
    payload_signs = min(MOST_SIGNS, int(payload_share * tails) // payload_bits)
    rest = tails - payload_bits * payload_signs
    return Layout(n, nonce_bits, nonce_signs, payload_bits, payload_signs, rest - rest // 2, rest // 2)


@register(WATERMARKS, "tail_sign")
class TailSign(LatentScheme):
    """The header carries the nonce under the master key; everything else hangs on both.

    Header: a keyed convolutional code of the nonce (:mod:`watermark.engine.trellis`) as signs of half-normal values at
    places that the key fixes. Over many pictures each value is standard normal and each pair independent.

    Body: fresh places and signs for each nonce, with the larger half of all values at the places that count (after
    T2SMark). A first part of them has signs that key and nonce fix, and is what the test rests on. A second part
    carries the payload, by a code of the same kind. A third is a fingerprint that the payload fixes: it joins the test,
    says whether the payload was read rightly, and is what users are traced by.
    """

    id = "tail_sign"
    goal = "Mark starting noise by secret signs of its largest values, readable with the key alone."
    refs = (
        "T2SMark, NeurIPS 2025, arXiv 2510.22366",
        "Z. Yang et al., Gaussian Shading, CVPR 2024, arXiv 2404.04956",
    )
    limits = (
        "Lost under rotation, flips and crops that are not undone first. The blind header is pairwise independent over "
        "pictures of one key, but triples of its signs are not."
    )
    isotropic = True

    def capacity(self, shape: Shape) -> Capacity:
        """See :meth:`LatentScheme.capacity`; 32 + 16 bits from 1,024 values on, 96 + 64 bits from 4,096 on."""
        layout = layout_of(shape)
        note = (
            ""
            if layout.n >= _FULL
            else "A log of issued nonces finds marks that a header this short does not."
        )
        carrying = layout.header + layout.body // 2
        return Capacity(layout.nonce_bits, layout.payload_bits, carrying, float(layout.known), note)

    def embed(self, key: MasterKey, nonce: bytes, shape: Shape, payload: bytes = b"") -> Latents:
        """See :meth:`LatentScheme.embed`. As much of the nonce is used as the header carries."""
        layout = layout_of(shape)
        word = checked_payload(payload, self.capacity(shape))
        short = checked_nonce(nonce)[: layout.nonce_bits // 8]
        header, body = _places(key, layout)
        magnitudes = key.stream("magnitudes", short)
        out = np.empty(layout.n)
        out[header] = signed_normals(_header_signs(key, layout, short), magnitudes)
        tails = tail_positions(layout.body, key.stream("tails", short))
        signs = np.concatenate(_body_signs(key, layout, short, word))
        out[body] = tail_normals(layout.body, tails, signs, magnitudes)
        return sign_safe(out.reshape(shape))

    def _detect(
        self, latents: FloatArray, held: Capacity, key: MasterKey, nonces: tuple[bytes, ...],
        payload: bytes | None, seed: int,
    ) -> Detection:  # fmt: skip
        """Blind, the header only says which signs to look for, and the p-value rests on the body.

        A logged nonce fixes the signs of the header too.
        """
        layout, flat = layout_of(latents.shape), latents.ravel()
        if not nonces:
            read = _read_header(key, layout, flat)
            return self._tested(key, layout, flat, read, payload, blind=True, seed=seed)
        tried = dict.fromkeys(nonce[: layout.nonce_bits // 8] for nonce in nonces)
        best = min(tried, key=lambda short: self._bound(key, layout, flat, short, payload))
        return self._tested(key, layout, flat, best, payload, blind=False, seed=seed).corrected(len(tried))

    def fingerprints(
        self, latents: FloatArray, key: MasterKey, nonce: bytes, payloads: Sequence[bytes]
    ) -> FloatArray:
        """See :meth:`LatentScheme.fingerprints`: the third part of the body, with signs of each payload's own."""
        layout = layout_of(latents.shape)
        short = nonce[: layout.nonce_bits // 8]
        marked = _tails(key, layout, latents.ravel(), short)[layout.known + layout.payload :]
        return np.stack([marked * _fingerprint(key, layout, short, payload) for payload in payloads])

    def _bound(
        self, key: MasterKey, layout: Layout, flat: FloatArray, short: bytes, given: bytes | None
    ) -> float:
        values, ends, _ = _evidence(key, layout, flat, short, given, blind=False)
        return agreement(values, ends).bound

    def _tested(
        self,
        key: MasterKey,
        layout: Layout,
        flat: FloatArray,
        short: bytes,
        given: bytes | None,
        blind: bool,
        seed: int,
    ) -> Detection:
        values, ends, word = _evidence(key, layout, flat, short, given, blind)
        found = agreement(values, ends)
        p, method = found.settled(seed)
        sure = agreement(values[ends[-1] - layout.fingerprint : ends[-1]]) if given is None else None
        return Detection(
            scheme=self.id,
            p_value=p,
            method=method,
            statistic=found.deviations,
            n=len(values),
            floor=Capacity(0, 0, len(values), float(ends[0])).floor,
            nonce=short,
            payload=word,
            tails={Method.CERTIFIED: found.bound, Method.SADDLE_POINT: found.approximate},
            details={
                "blind": blind,
                # How likely a wrong payload is to agree as well with its fingerprint.
                "payload_p": None if sure is None else sure.bound,
            },
        )


def _evidence(
    key: MasterKey, layout: Layout, flat: FloatArray, short: bytes, given: bytes | None, blind: bool
) -> tuple[FloatArray, tuple[int, ...], bytes]:
    """Signs times values for a nonce, the prefixes of them to test, and the payload as given or read."""
    header, _ = _places(key, layout)
    known, carrying, marked = np.split(
        _tails(key, layout, flat, short), [layout.known, layout.known + layout.payload]
    )
    white = _white(key, layout, short)
    word = given
    if word is None:
        code = _payload_code(key, layout)
        word = np.packbits(code.decode(carrying * white[layout.known :])).tobytes()
    signs = _body_signs(key, layout, short, word)
    parts = [known * signs[0], marked * signs[2]]
    if not blind:
        parts.insert(0, flat[header] * _header_signs(key, layout, short))
    if given is not None:
        # Nothing was read from them, so that they may be tested as well.
        return np.concatenate([*parts, carrying * signs[1]]), (sum(map(len, parts)) + len(carrying),), word
    total = sum(map(len, parts))
    return np.concatenate(parts), (total - layout.fingerprint, total), word


def _read_header(key: MasterKey, layout: Layout, flat: FloatArray) -> bytes:
    header, _ = _places(key, layout)
    soft = flat[header] * _header_mask(key, layout)
    return np.packbits(_nonce_code(key, layout).decode(soft)).tobytes()


def _header_signs(key: MasterKey, layout: Layout, short: bytes) -> FloatArray:
    return _nonce_code(key, layout).encode(bits_of(short)) * _header_mask(key, layout)


def _body_signs(
    key: MasterKey, layout: Layout, short: bytes, word: bytes
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Signs of the tails: those that are known, those that carry the payload, and its fingerprint."""
    white = _white(key, layout, short)
    carrying = _payload_code(key, layout).encode(bits_of(word)) * white[layout.known :]
    return white[: layout.known], carrying, _fingerprint(key, layout, short, word)


def _fingerprint(key: MasterKey, layout: Layout, short: bytes, word: bytes) -> FloatArray:
    """Signs (fingerprint,) that a payload fixes under one nonce; those of any other payload are independent of them."""
    return key.stream(f"fingerprint|{word.hex()}", short).signs(layout.fingerprint)


def _tails(key: MasterKey, layout: Layout, flat: FloatArray, short: bytes) -> FloatArray:
    """Values of the tails: those that are known, those that carry the payload, and its fingerprint."""
    _, body = _places(key, layout)
    found: FloatArray = flat[body][tail_positions(layout.body, key.stream("tails", short))]
    return found


def _white(key: MasterKey, layout: Layout, short: bytes) -> FloatArray:
    return key.stream("signs", short).signs(layout.known + layout.payload)


@lru_cache(maxsize=8)
def _places(key: MasterKey, layout: Layout) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Coordinates of header and body."""
    order = key.stream(f"places|{layout.n}").permutation(layout.n)
    return order[: layout.header], np.sort(order[layout.header :])


@lru_cache(maxsize=8)
def _header_mask(key: MasterKey, layout: Layout) -> FloatArray:
    return key.stream(f"header|{layout.n}").signs(layout.header)


@lru_cache(maxsize=8)
def _nonce_code(key: MasterKey, layout: Layout) -> Trellis:
    return Trellis.keyed(layout.nonce_bits, layout.nonce_signs, key.stream(f"nonce code|{layout.n}"))


@lru_cache(maxsize=8)
def _payload_code(key: MasterKey, layout: Layout) -> Trellis:
    return Trellis.keyed(layout.payload_bits, layout.payload_signs, key.stream(f"payload code|{layout.n}"))


def _shown(shape: Shape) -> str:
    return "x".join(map(str, shape))
