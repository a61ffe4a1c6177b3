"""The middle of the latents, where a mark survives a crop of the margin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Window"]

FloatArray = NDArray[np.float64]

_LARGE = 64
_PARTS, _OF = 11, 16


@dataclass(frozen=True)
class Window:
    """A part of planes.

    Attributes:
        top: first row.
        left: first column.
        height: rows.
        width: columns.
    """

    top: int
    left: int
    height: int
    width: int

    @classmethod
    def of(cls, height: int, width: int) -> Window:
        """The middle 44 of 64 rows and columns, as published, and so in proportion; all of smaller latents.

        Source: arXiv 2509.07647.
        """
        if min(height, width) < _LARGE:
            return cls(0, 0, height, width)
        rows, columns = (side * _PARTS // _OF for side in (height, width))
        return cls((height - rows) // 2, (width - columns) // 2, rows, columns)

    def cut(self, planes: FloatArray) -> FloatArray:
        """A view (..., height, width) into planes."""
        return planes[..., self.top : self.top + self.height, self.left : self.left + self.width]
