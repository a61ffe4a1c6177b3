"""``hstr``: complex rings and a field of secret values in the spectrum of the middle of the latents."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from auditor.errors import UsageError
from auditor.registry import WATERMARKS, register
from watermark.detection import Detection
from watermark.engine.rings import Rings
from watermark.engine.spectrum import Spectrum
from watermark.engine.sphere import detected
from watermark.engine.window import Window
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

__all__ = ["Hstr", "Layout", "layout_of"]

_LEAST_SIDE = 12
_INNER, _OUTER = 2, 10


@dataclass(frozen=True)
class Layout:
    """Where the marks lie: rings in the last channel, the field within the same radii of the first one.

    Attributes:
        window: the part of the latents whose spectrum it is.
        rings: of the last channel, a real and an imaginary value each.
    """

    window: Window
    rings: Rings

    @property
    def dimensions(self) -> int:
        """Values that a key chooses: two for each ring, two for each cell of the field."""
        return 2 * self.rings.count + self.cells

    @property
    def cells(self) -> int:
        """Coordinates, real and imaginary, that one channel's share of the mark takes."""
        return 2 * int(self.rings.sizes.sum())


@lru_cache(maxsize=16)
def layout_of(shape: Shape) -> Layout:
    """The layout for latents (C, h, w).

    Raises:
        UsageError: they are too small, or have one channel only.
    """
    channels, height, width = shape
    if min(height, width) < _LEAST_SIDE or channels < 2:
        raise UsageError(
            f"hstr needs two channels of {_LEAST_SIDE}x{_LEAST_SIDE} or more, not {channels} of {height}x{width}"
        )
    window = Window.of(height, width)
    shorter = min(window.height, window.width)
    rings = Rings(Spectrum(window.height, window.width), _INNER, min(_OUTER, (shorter - 1) // 2))
    return Layout(window, rings)


@register(WATERMARKS, "hstr")
class Hstr(LatentScheme):
    """Rings with a real and an imaginary height, and a field with a value of its own in every cell.

    The imaginary part changes its sign from one half of the spectrum to the other, as the transform of a real plane
    must. Where latents are large, the mark lies in the middle of them alone and is whole after a crop of the margin.
    All heights and values are one vector of normals, whose direction is what a key chooses; see ``tree_ring``.
    """

    id = "hstr"
    goal = "Mark starting noise by complex rings and a secret field in the spectrum of its middle."
    refs = ("S. Lee and N. I. Cho, Semantic Watermarking Reinvented (SFW), ICCV 2025, arXiv 2509.07647",)
    limits = (
        "Every picture of a key has the same pattern, which an average of many gives away and each of them lets "
        "forge. Says only present or absent. The field is lost when the picture is turned."
    )

    def capacity(self, shape: Shape) -> Capacity:
        """See :meth:`LatentScheme.capacity`. Keys are directions, as many as there are master keys."""
        note = "One pattern for every picture: an average of many pictures shows it."
        return Capacity(0, 0, 2 * layout_of(shape).cells, 8.0 * KEY_BYTES, note)

    def fixed_share(self, shape: Shape) -> float:
        """Part of the noise's variance that is the same in every picture of a key, in (0, 1)."""
        return 2 * layout_of(shape).cells / math.prod(shape)

    def embed(self, key: MasterKey, nonce: bytes, shape: Shape, payload: bytes = b"") -> Latents:
        """See :meth:`LatentScheme.embed`."""
        layout = layout_of(shape)
        checked_payload(payload, self.capacity(shape))
        noise = fresh_noise(key, "hstr|noise", nonce, shape)
        rings, field = _pattern(key, layout)
        marked = layout.window.cut(noise)[[0, -1]]
        values = layout.rings.spectrum.read(marked)
        values[0][:, layout.rings.inside] = field
        values[1] = layout.rings.spread(rings, values[1])
        layout.window.cut(noise)[[0, -1]] = layout.rings.spectrum.write(marked, values)
        return sign_safe(noise)

    def _detect(
        self, latents: FloatArray, held: Capacity, key: MasterKey, nonces: tuple[bytes, ...],
        payload: bytes | None, seed: int,
    ) -> Detection:  # fmt: skip
        """The mark does not hang on the nonce, so that a log of them adds nothing."""
        layout = layout_of(latents.shape)
        found = layout.rings.spectrum.read(layout.window.cut(latents)[[0, -1]])
        rings, field = _pattern(key, layout)
        wanted = np.concatenate([rings.ravel(), field.ravel()])
        apart = np.abs(found[1] - layout.rings.spread(rings, found[1]))[:, layout.rings.inside]
        details = {"values": layout.dimensions, "published_l1": float(apart.mean())}
        return detected(self.id, wanted, _evidence(layout, found), held.n, held.floor, details)


def _pattern(key: MasterKey, layout: Layout) -> tuple[FloatArray, FloatArray]:
    """Heights of the rings (2, rings) and values of the field (2, cells), in deviations of unmarked noise."""
    drawn = key.stream("hstr|pattern").normals(layout.dimensions)
    rings, field = np.split(drawn, [2 * layout.rings.count])
    power = float((layout.rings.sizes * np.square(rings.reshape(2, -1))).sum() + np.square(field).sum())
    scale = math.sqrt(2 * layout.cells / power)
    return scale * rings.reshape(2, -1), scale * field.reshape(2, -1)


def _evidence(layout: Layout, found: FloatArray) -> FloatArray:
    """What rings and field say of their values, in the order of the key: (dimensions,)."""
    rings = layout.rings
    single = rings.spread(rings.cell_weight(found[0]), np.ones(rings.inside.shape))
    return np.concatenate([rings.evidence(found[1]).ravel(), (found[0] * single)[:, rings.inside].ravel()])
