"""The spectrum of latents as real coordinates that can be written one by one, and nothing is lost on the way back.

The transform of a real plane is Hermitian, ``F(-k) = conj F(k)``, so that half of it says everything. A pattern that
ignores this is averaged with its own mirror image when the real part is taken: the mark is halved and the variance of
the noise falls. Here only columns without a partner in the same half are touched. Their real and imaginary parts,
times the root of two, are orthonormal coordinates of the plane: of white noise they are independent standard normals,
and any values written there are read back exactly.

Phases are counted from the middle of the plane, so that a pattern that depends on the frequency's length alone stays
where it is when the picture is turned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["Spectrum"]

FloatArray = NDArray[np.float64]

_STEADY = 0.1
"""Part of unit variance that keeps an empty band from outweighing all others."""


@dataclass(frozen=True)
class Spectrum:
    """The free coordinates of planes of one size.

    Attributes:
        height: rows of a plane.
        width: columns of a plane.
    """

    height: int
    width: int

    @property
    def columns(self) -> int:
        """Columns of the half spectrum whose values no other column repeats: all but the first and the Nyquist one."""
        return (self.width - 1) // 2

    @property
    def size(self) -> int:
        """Real coordinates of one plane."""
        return 2 * self.height * self.columns

    @cached_property
    def radii(self) -> FloatArray:
        """Length of each frequency (height, columns), in cycles over the shorter side."""
        shorter = min(self.height, self.width)
        return np.hypot(self._down[:, None] * shorter / self.height, self._across * shorter / self.width)

    def read(self, planes: FloatArray) -> FloatArray:
        """Coordinates (..., 2, height, columns) of planes (..., height, width): real parts, then imaginary ones."""
        half = np.fft.rfft2(planes, norm="ortho")[..., 1 : self.columns + 1] * self._centring
        return np.asarray(math.sqrt(2) * np.stack([half.real, half.imag], axis=-3))

    def write(self, planes: FloatArray, values: FloatArray) -> FloatArray:
        """The planes (..., height, width) with these coordinates (..., 2, height, columns), otherwise as they were."""
        half = np.fft.rfft2(planes, norm="ortho")
        written = (values[..., 0, :, :] + 1j * values[..., 1, :, :]) / math.sqrt(2)
        half[..., 1 : self.columns + 1] = written * self._centring.conj()
        return np.asarray(np.fft.irfft2(half, s=(self.height, self.width), norm="ortho"))

    def levelled(self, values: FloatArray) -> FloatArray:
        """Coordinates (..., 2, height, columns) over their root mean square among frequencies of about equal length.

        What a picture leaves of itself in inverted latents is largest at low frequencies; untouched, it would outweigh
        the mark.
        """
        bands = np.rint(self.radii).astype(np.int64)
        members = np.eye(int(bands.max()) + 1)[bands]
        power = np.tensordot(np.square(values).mean(axis=-3), members, axes=2)
        scale = np.sqrt(power / np.maximum(members.sum(axis=(0, 1)), 1) + _STEADY)[..., bands]
        return np.asarray(values / scale[..., None, :, :])

    @property
    def _down(self) -> FloatArray:
        return np.asarray(np.fft.fftfreq(self.height, 1 / self.height), dtype=np.float64)

    @property
    def _across(self) -> FloatArray:
        return np.arange(1, self.columns + 1, dtype=np.float64)

    @cached_property
    def _centring(self) -> NDArray[np.complex128]:
        rows = self._down * (self.height - 1) / (2 * self.height)
        columns = self._across * (self.width - 1) / (2 * self.width)
        return np.asarray(np.exp(2j * np.pi * (rows[:, None] + columns)), dtype=np.complex128)
