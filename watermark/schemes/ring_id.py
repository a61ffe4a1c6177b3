"""``ring_id``: rings of one height whose signs say who, and a field of secret signs that says whether."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from auditor.errors import UsageError
from auditor.registry import WATERMARKS, register
from watermark.detection import Detection, Method
from watermark.engine.rings import Rings
from watermark.engine.spectrum import Spectrum
from watermark.engine.sums import DRAWS, agreement
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
    signs_of,
)
from watermark.tails import monte_carlo, settle

__all__ = ["Layout", "RingId", "layout_of"]

_LEAST_SIDE = 12
_SMALL_SIDE = 32
_INNER, _OUTER = 3, 13
_PAYLOAD_BITS = 8


@dataclass(frozen=True)
class Layout:
    """Where the marks lie.

    Attributes:
        channels: the last so many have rings; the first one has the field.
        rings: of each of them.
    """

    channels: int
    rings: Rings

    @property
    def count(self) -> int:
        """Rings of all channels."""
        return self.channels * self.rings.count

    @property
    def field(self) -> int:
        """Coordinates of the field, real and imaginary."""
        return 2 * int(self.rings.sizes.sum())

    @property
    def cells(self) -> int:
        """Coordinates that carry rings."""
        return self.channels * int(self.rings.sizes.sum())


@lru_cache(maxsize=16)
def layout_of(shape: Shape) -> Layout:
    """The layout for latents (C, h, w): eleven rings in the last channel, or as many channels as 8 bits need.

    Raises:
        UsageError: they are too small, or have too few channels.
    """
    channels, height, width = shape
    shorter = min(height, width)
    if shorter < _LEAST_SIDE:
        raise UsageError(
            f"ring_id needs latents of {_LEAST_SIDE}x{_LEAST_SIDE} or more, not {height}x{width}"
        )
    inner = 2 if shorter < _SMALL_SIDE else _INNER
    rings = Rings(Spectrum(height, width), inner, min(_OUTER, (shorter - 1) // 2))
    wanted = math.ceil((_PAYLOAD_BITS + 1) / rings.count)
    if channels < wanted + 1:
        raise UsageError(
            f"ring_id needs {wanted + 1} channels or more at {height}x{width}, and there are {channels}"
        )
    return Layout(wanted, rings)


@register(WATERMARKS, "ring_id")
class RingId(LatentScheme):
    """The signs of eight rings carry the payload, under a secret mask; the other rings have secret signs.

    As published, a picture is marked where it is near any of 2,048 patterns of signs, and no key can then be told from
    another with a p-value below one in 2,048. Here what is tested are the signs of the field in the first channel,
    which are many, and of the rings that carry no bit; and of all rings, at the price of all payloads that could have
    been read. Magnitudes in the field and the imaginary parts of rings are fresh for every picture.
    """

    id = "ring_id"
    goal = (
        "Mark starting noise by rings of two heights that carry eight bits, beside a field of secret signs."
    )
    refs = ("H. Ci et al., RingID, ECCV 2024, arXiv 2404.14055",)
    limits = (
        "Pictures of one key and payload have the same pattern, which an average of many gives away and each of them "
        "lets forge. Only the rings survive when the picture is turned: 8 bits, and no p-value below 2**-8 for them."
    )

    def capacity(self, shape: Shape) -> Capacity:
        """See :meth:`LatentScheme.capacity`; 8 bits."""
        layout = layout_of(shape)
        signs = layout.field + layout.count - _PAYLOAD_BITS
        note = f"The rings alone are {layout.count} signs: no p-value below 2**-{layout.count} rests on them."
        return Capacity(0, _PAYLOAD_BITS, layout.field + layout.cells, min(8.0 * KEY_BYTES, signs), note)

    def fixed_share(self, shape: Shape) -> float:
        """Part of the noise's variance that is the same in every picture of a key and payload, in (0, 1)."""
        layout = layout_of(shape)
        return (layout.cells + 2 / math.pi * layout.field) / math.prod(shape)

    def embed(self, key: MasterKey, nonce: bytes, shape: Shape, payload: bytes = b"") -> Latents:
        """See :meth:`LatentScheme.embed`."""
        layout = layout_of(shape)
        word = checked_payload(payload, self.capacity(shape))
        noise = fresh_noise(key, "ring_id|noise", nonce, shape)
        spectrum, rings = layout.rings.spectrum, layout.rings
        values = spectrum.read(noise)
        ringed = values[-layout.channels :]
        ringed[:, 0] = rings.spread(_ring_signs(key, layout, word), ringed[:, 0])
        values[0][:, rings.inside] = np.abs(values[0][:, rings.inside]) * _field_signs(key, layout)
        return sign_safe(spectrum.write(noise, values))

    def _detect(
        self, latents: FloatArray, held: Capacity, key: MasterKey, nonces: tuple[bytes, ...],
        payload: bytes | None, seed: int,
    ) -> Detection:  # fmt: skip
        """The mark does not hang on the nonce, so that a log of them adds nothing."""
        layout = layout_of(latents.shape)
        field, ringed = _found(layout, latents)
        unsigned = ringed * _ring_mask(key, layout)
        bits = (unsigned[-_PAYLOAD_BITS:] > 0).astype(np.uint8)
        word = np.packbits(bits).tobytes() if payload is None else payload
        agreeing = (field * _field_signs(key, layout)).ravel()
        known = np.concatenate([agreeing, unsigned[:-_PAYLOAD_BITS]])
        tested = agreement(np.concatenate([agreeing, ringed * _ring_signs(key, layout, word).ravel()]))
        if payload is None:
            without = agreement(known)
            bound, approximate = (
                _either(without.bound, tested.bound),
                _either(without.approximate, tested.approximate),
            )
            rng = np.random.default_rng(seed)
            p, method = settle(bound, lambda: monte_carlo(float(known.sum()), known, DRAWS, rng))
        else:
            (p, method), bound, approximate = tested.settled(seed), tested.bound, tested.approximate
        return Detection(
            scheme=self.id,
            p_value=max(p, held.floor),
            method=method,
            statistic=tested.deviations,
            n=held.n,
            floor=held.floor,
            payload=word,
            tails={Method.CERTIFIED: bound, Method.SADDLE_POINT: approximate},
            details={"rings": layout.count, "published_l1": _published_l1(key, layout, latents, word)},
        )

    def fingerprints(
        self, latents: FloatArray, key: MasterKey, nonce: bytes, payloads: Sequence[bytes]
    ) -> FloatArray:
        """See :meth:`LatentScheme.fingerprints`: one soft value a bit."""
        layout = layout_of(latents.shape)
        soft = (_found(layout, latents)[1] * _ring_mask(key, layout))[-_PAYLOAD_BITS:]
        return np.stack([signs_of(payload) * soft for payload in payloads])


def _either(without: float, read: float) -> float:
    """The better of a test without the payload and of one with the payload as read, which pays for all payloads."""
    return min(1.0, 2 * min(without, 2.0**_PAYLOAD_BITS * read))


def _found(layout: Layout, latents: FloatArray) -> tuple[FloatArray, FloatArray]:
    """What the field (2, cells) and each ring (rings,) hold, in units of the spread within the same ring."""
    rings = layout.rings
    first, last = rings.spectrum.read(latents[0]), rings.spectrum.read(latents[-layout.channels :])
    spread = rings.spread(rings.spread_within(first), np.ones(rings.inside.shape))
    ringed = rings.sums(last[:, 0]) / rings.spread_within(last)
    return (first / spread)[:, rings.inside], ringed.ravel()


def _ring_mask(key: MasterKey, layout: Layout) -> FloatArray:
    return key.stream("ring_id|rings").signs(layout.count)


def _ring_signs(key: MasterKey, layout: Layout, word: bytes) -> FloatArray:
    """The sign of each ring (channels, rings); payload bits in the outer rings, which have more cells."""
    signs = _ring_mask(key, layout)
    signs[-_PAYLOAD_BITS:] *= signs_of(word)
    return signs.reshape(layout.channels, -1)


def _field_signs(key: MasterKey, layout: Layout) -> FloatArray:
    """Signs of the field (2, cells)."""
    return key.stream("ring_id|field").signs(layout.field).reshape(2, -1)


def _published_l1(key: MasterKey, layout: Layout, latents: FloatArray, word: bytes) -> float:
    """The distance that the published detector ranks keys by, for comparison alone."""
    real = layout.rings.spectrum.read(latents[-layout.channels :])[:, 0]
    wanted = layout.rings.spread(_ring_signs(key, layout, word), real)
    return float(np.abs(real - wanted)[:, layout.rings.inside].mean())
