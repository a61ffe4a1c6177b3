"""Marks that are pictures of 21 by 21 modules: drawn for the autoencoder, read back softly, and hidden by a key.

A module is three pixels wide, so that one code fills 63 of 64 pixels; larger pictures are tiled with it. The 21 modules
are those of the smallest QR code, and any other drawing in two colours fits in as well.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from watermark.engine.qr import SIDE

__all__ = ["MODULE", "SQUARES", "TILE", "coarse", "drawn", "modules_in", "random_modules", "squares"]

MODULE = 3
"""Pixels of a module's side."""
TILE = 64
"""Pixels of the side of one copy: 21 modules, and a pixel that repeats the last."""

SQUARES = 49
"""Squares of three by three modules in a mark that is to be simple."""
_SIDE = 7
_GRAIN = SIDE // _SIDE

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]


def drawn(modules: BoolArray, height: int = TILE, width: int = TILE) -> NDArray[np.float32]:
    """A mark picture (3, height, width) in [-1, 1], dark modules -1, tiled from the upper left corner.

    Args:
        modules: (21, 21), dark ones True.
        height: in pixels.
        width: in pixels.
    """
    places = np.minimum(np.arange(TILE) // MODULE, SIDE - 1)
    tile = np.where(modules[np.ix_(places, places)], -1.0, 1.0).astype(np.float32)
    rows, columns = np.arange(height) % TILE, np.arange(width) % TILE
    return np.broadcast_to(tile[np.ix_(rows, columns)], (3, height, width)).copy()


def modules_in(picture: FloatArray) -> FloatArray:
    """How dark each module (21, 21) is in a mark picture (3, H, W) that was read: the mean over its pixels and copies.

    Positive for dark; 0 for modules of which the picture shows nothing.
    """
    _, height, width = picture.shape
    darkness = -picture.mean(axis=0)
    rows, columns = (np.arange(side) % TILE // MODULE for side in (height, width))
    total, seen = np.zeros((SIDE + 1, SIDE + 1)), np.zeros((SIDE + 1, SIDE + 1))
    np.add.at(total, np.ix_(rows, columns), darkness)
    np.add.at(seen, np.ix_(rows, columns), 1.0)
    inner = np.s_[:SIDE, :SIDE]
    return np.asarray(total[inner] / np.maximum(seen[inner], 1.0))


def random_modules(rng: np.random.Generator, grain: int) -> BoolArray:
    """Fair modules (21, 21), the same in squares of ``grain`` by ``grain``, which divides 21."""
    side = SIDE // grain
    return np.kron(rng.random((side, side)) < 0.5, np.ones((grain, grain), dtype=bool))


def coarse(grid: FloatArray) -> FloatArray:
    """Means (49,) of a grid (21, 21) over squares of three by three modules."""
    return np.asarray(grid.reshape(_SIDE, _GRAIN, _SIDE, _GRAIN).mean(axis=(1, 3)).ravel())


def squares(dark: BoolArray) -> BoolArray:
    """Modules (21, 21) of 49 squares of three by three, dark ones True."""
    return np.kron(dark.reshape(_SIDE, _SIDE), np.ones((_GRAIN, _GRAIN), dtype=bool))
