"""Cosine coefficients of latents: where a mark is written on a picture itself, between its shapes and its grain."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["Band"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Band:
    """The cosine coefficients of planes of one size whose frequencies lie in a band.

    Attributes:
        height: rows of a plane.
        width: columns of a plane.
        low: the lowest frequency, as a share of the highest along a side.
        high: the highest.
    """

    height: int
    width: int
    low: float
    high: float

    @cached_property
    def inside(self) -> NDArray[np.bool_]:
        """Which coefficients (height, width) belong to it."""
        down, across = np.arange(self.height) / self.height, np.arange(self.width) / self.width
        frequency = np.hypot(down[:, None], across[None])
        return np.asarray((frequency >= self.low) & (frequency <= self.high))

    @property
    def size(self) -> int:
        """Coefficients of one plane."""
        return int(self.inside.sum())

    @cached_property
    def rows(self) -> FloatArray:
        """The orthonormal transform along columns, (height, height)."""
        return _cosines(self.height)

    @cached_property
    def columns(self) -> FloatArray:
        """The same along rows, (width, width)."""
        return _cosines(self.width)

    def read(self, planes: FloatArray) -> FloatArray:
        """Coefficients (..., size) of planes (..., height, width)."""
        return np.asarray((self.rows @ planes @ self.columns.T)[..., self.inside])

    def planes(self, values: FloatArray) -> FloatArray:
        """Planes (..., height, width) with these coefficients (..., size) and no others."""
        spectrum = np.zeros((*values.shape[:-1], self.height, self.width))
        spectrum[..., self.inside] = values
        return np.asarray(self.rows.T @ spectrum @ self.columns)


def _cosines(n: int) -> FloatArray:
    """The second cosine transform as a matrix (n, n), frequency by place."""
    place, frequency = np.arange(n)[None], np.arange(n)[:, None]
    table = np.cos(np.pi * frequency * (2 * place + 1) / (2 * n)) * math.sqrt(2 / n)
    table[0] /= math.sqrt(2)
    return np.asarray(table)
