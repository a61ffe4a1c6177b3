"""``tree_ring``: rings of secret heights in the spectrum of the noise, tested as a direction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from auditor.contracts import JsonValue
from auditor.errors import UsageError
from auditor.registry import WATERMARKS, register
from watermark.detection import Detection
from watermark.engine.rings import Rings
from watermark.engine.spectrum import Spectrum
from watermark.engine.sphere import detected
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

__all__ = ["Layout", "TreeRing", "layout_of"]

_LEAST_SIDE = 8
_INNER, _OUTER = 2, 10
"""The innermost ring is left out: inverted latents keep too much of the picture's own shading there."""
_DIMENSIONS = 20
"""Rings wanted in all: with these a cosine of 0.9 has a p-value of one in ten million."""


@dataclass(frozen=True)
class Layout:
    """Where the rings lie.

    Attributes:
        channels: the last so many.
        rings: of each of them.
    """

    channels: int
    rings: Rings

    @property
    def dimensions(self) -> int:
        """Rings of all channels."""
        return self.channels * self.rings.count

    @property
    def cells(self) -> int:
        """Coordinates that carry the mark."""
        return self.channels * int(self.rings.sizes.sum())


@lru_cache(maxsize=16)
def layout_of(shape: Shape) -> Layout:
    """The layout for latents (C, h, w): rings from 2 to 10, in as many channels as 20 rings need.

    Raises:
        UsageError: they are too small.
    """
    channels, height, width = shape
    shorter = min(height, width)
    if shorter < _LEAST_SIDE:
        raise UsageError(
            f"tree_ring needs latents of {_LEAST_SIDE}x{_LEAST_SIDE} or more, not {height}x{width}"
        )
    rings = Rings(Spectrum(height, width), _INNER, min(_OUTER, (shorter - 1) // 2))
    return Layout(min(channels, math.ceil(_DIMENSIONS / rings.count)), rings)


@register(WATERMARKS, "tree_ring")
class TreeRing(LatentScheme):
    """One height a ring, the same for every picture of a key.

    As published, the pattern is made complex and the real part is taken of what comes back, which halves the mark and
    lowers the variance of the noise, and the test compares with a non-central chi-square whose scale is estimated from
    the tested values themselves: for the pattern of zeros it says nothing whatever the picture, for others it is
    conservative by a factor that hangs on the key. Here heights are real, so that nothing is lost, and scaled so that
    the variance stays that of unmarked noise. The direction of the heights is what a key chooses, and its cosine with
    the heights that are found has a known distribution whatever the picture is.
    """

    id = "tree_ring"
    goal = "Mark starting noise by rings in its spectrum, which survive when the picture is turned."
    refs = ("Y. Wen et al., Tree-Ring Watermarks, NeurIPS 2023, arXiv 2305.20030",)
    limits = (
        "Every picture of a key has the same pattern, which an average of many gives away and each of them lets "
        "forge. Says only present or absent. Lost under crops and rescaling that are not undone first."
    )

    def capacity(self, shape: Shape) -> Capacity:
        """See :meth:`LatentScheme.capacity`. Keys are directions, as many as there are master keys."""
        layout = layout_of(shape)
        note = "One pattern for every picture: an average of many pictures shows it."
        return Capacity(0, 0, layout.cells, 8.0 * KEY_BYTES, note)

    def fixed_share(self, shape: Shape) -> float:
        """Part of the noise's variance that is the same in every picture of a key, in (0, 1)."""
        return layout_of(shape).cells / math.prod(shape)

    def embed(self, key: MasterKey, nonce: bytes, shape: Shape, payload: bytes = b"") -> Latents:
        """See :meth:`LatentScheme.embed`."""
        layout = layout_of(shape)
        checked_payload(payload, self.capacity(shape))
        noise = fresh_noise(key, "tree_ring|noise", nonce, shape)
        marked = noise[-layout.channels :]
        values = layout.rings.spectrum.read(marked)
        values[:, 0] = layout.rings.spread(_heights(key, layout), values[:, 0])
        noise[-layout.channels :] = layout.rings.spectrum.write(marked, values)
        return sign_safe(noise)

    def _detect(
        self, latents: FloatArray, held: Capacity, key: MasterKey, nonces: tuple[bytes, ...],
        payload: bytes | None, seed: int,
    ) -> Detection:  # fmt: skip
        """The mark does not hang on the nonce, so that a log of them adds nothing."""
        layout = layout_of(latents.shape)
        found = layout.rings.spectrum.read(latents[-layout.channels :])
        heights = _heights(key, layout)
        evidence = layout.rings.evidence(found)[:, 0].ravel()
        details = {"rings": layout.dimensions, **_published(layout, found, heights)}
        return detected(self.id, heights.ravel(), evidence, held.n, held.floor, details)


def _heights(key: MasterKey, layout: Layout) -> FloatArray:
    """The height of each ring (channels, rings), in deviations of unmarked noise."""
    heights = key.stream("tree_ring|heights").normals(layout.dimensions).reshape(layout.channels, -1)
    return np.asarray(
        heights * math.sqrt(layout.cells / float((layout.rings.sizes * np.square(heights)).sum()))
    )


def _published(layout: Layout, found: FloatArray, heights: FloatArray) -> dict[str, JsonValue]:
    """What the published detector would have compared, for comparison alone: its distance and its p-value."""
    from scipy.special import chndtr

    real = found[:, 0][:, layout.rings.inside]
    wanted = layout.rings.spread(heights, found[:, 0])[:, layout.rings.inside]
    variance = float(np.square(real).mean())
    distance = float(np.square(real - wanted).sum()) / variance
    p = float(chndtr(distance, real.size, float(np.square(wanted).sum()) / variance))
    return {"published_l1": float(np.abs(real - wanted).mean()), "published_p": p}
