"""The null distribution of a key that is a direction: exact, continuous, in closed form.

A key of D independent normals has a direction that is uniform on the sphere, whatever is done to its length. The
cosine between it and *any* vector that does not depend on it has therefore one distribution: with ``c`` the cosine,
``(1 + c) / 2`` is Beta((D - 1) / 2, (D - 1) / 2). The vector is what was found in a picture, weighted as one likes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["cosine", "cosine_p"]

FloatArray = NDArray[np.float64]

_SMALLEST = 5e-324


def cosine(key: FloatArray, found: FloatArray) -> float:
    """Cosine of two vectors (D,); 0 where nothing was found."""
    size = float(np.linalg.norm(key) * np.linalg.norm(found))
    return float(np.clip(key @ found / size, -1, 1)) if size > 0 else 0.0


def cosine_p(value: float, dimensions: int) -> float:
    """P(cosine >= ``value``) for a uniform direction in so many dimensions, in (0, 1].

    Args:
        value: in [-1, 1].
        dimensions: D, two at least.

    Raises:
        ValueError: fewer than two dimensions.
    """
    from scipy.special import betainc

    if dimensions < 2:
        raise ValueError("a direction needs two dimensions at least")
    half = (dimensions - 1) / 2
    # The upper tail of (1 + c) / 2 is the lower tail of (1 - c) / 2, which keeps its digits.
    return min(1.0, max(float(betainc(half, half, (1 - value) / 2)), _SMALLEST))
