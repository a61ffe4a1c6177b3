"""Rings in a spectrum: patterns that stay where they are when the picture is turned."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from watermark.engine.spectrum import Spectrum

__all__ = ["Rings"]

FloatArray = NDArray[np.float64]

_NOISE_TO_SIGNAL = 3.0
"""Of one coordinate of which half survives: what a ring's mean is worth against that of others."""
_STEADY = 0.5
"""Part of the latents' variance that keeps a ring without any spread from outweighing all others."""


@dataclass(frozen=True)
class Rings:
    """Rings one unit wide, of radii ``inner`` to ``outer``, both included.

    Attributes:
        spectrum: where they lie.
        inner: the smallest radius, in cycles over the shorter side; 1 at least.
        outer: the largest, below half of the shorter side.
    """

    spectrum: Spectrum
    inner: int
    outer: int

    @property
    def count(self) -> int:
        """How many."""
        return self.outer - self.inner + 1

    @cached_property
    def sizes(self) -> FloatArray:
        """Cells of each ring (count,); each has a real and an imaginary coordinate."""
        return np.bincount(self._ring[self.inside], minlength=self.count).astype(np.float64)

    @cached_property
    def inside(self) -> NDArray[np.bool_]:
        """Which cells of the spectrum (height, columns) lie on a ring."""
        return (self._ring >= 0) & (self._ring < self.count)

    def sums(self, cells: FloatArray) -> FloatArray:
        """Sum over each ring: (..., height, columns) to (..., count)."""
        return np.asarray(cells[..., self.inside] @ self._members)

    def spread(self, values: FloatArray, cells: FloatArray) -> FloatArray:
        """The cells (..., height, columns), those on a ring replaced by the ring's value (..., count)."""
        out = cells.copy()
        out[..., self.inside] = values @ self._members.T
        return out

    def evidence(self, values: FloatArray) -> FloatArray:
        """What each ring says of its value: (..., 2, height, columns) to (..., 2, count).

        A mean over the ring, the less of it the fewer cells there are, in units of the spread within the ring. Pictures
        leave more of themselves in some rings than in others.
        """
        weight = (self.sizes + _NOISE_TO_SIGNAL) * self.spread_within(values)
        return np.asarray(self.sums(values) / weight[..., None, :])

    def cell_weight(self, values: FloatArray) -> FloatArray:
        """By ring (..., count), what a single cell of a plane (..., 2, height, columns) says in the same units."""
        return np.asarray(1 / ((1 + _NOISE_TO_SIGNAL) * self.spread_within(values)))

    def spread_within(self, values: FloatArray) -> FloatArray:
        """Deviation of the coordinates within each ring around its means: (..., 2, height, columns) to (..., count)."""
        squares = self.sums(np.square(values)) / self.sizes - np.square(self.sums(values) / self.sizes)
        return np.asarray(np.sqrt(np.maximum(squares, 0).mean(axis=-2) + _STEADY))

    @cached_property
    def _ring(self) -> NDArray[np.int64]:
        return np.rint(self.spectrum.radii).astype(np.int64) - self.inner

    @cached_property
    def _members(self) -> FloatArray:
        return np.eye(self.count)[self._ring[self.inside]]
