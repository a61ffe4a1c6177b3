"""The null distribution of a key that is a direction: exact, continuous, in closed form.

A key of D independent normals has a direction that is uniform on the sphere, whatever is done to its length. The
cosine between it and *any* vector that does not depend on it has therefore one distribution: with ``c`` the cosine,
``(1 + c) / 2`` is Beta((D - 1) / 2, (D - 1) / 2). The vector is what was found in a picture, weighted as one likes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from auditor.contracts import JsonValue
from watermark.detection import Detection, Method

__all__ = ["cosine", "cosine_p", "detected"]

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


def detected(
    scheme: str, key: FloatArray, found: FloatArray, n: int, floor: float, details: Mapping[str, JsonValue]
) -> Detection:
    """What a scheme whose key is a direction says of a picture.

    Args:
        scheme: its id.
        key: the direction (D,), of any length.
        found: what the picture holds in its place (D,), weighted as one likes.
        n: latent coordinates that carry it.
        floor: the smallest p-value that the key space allows.
        details: beside the cosine.
    """
    likeness = cosine(key, found)
    p = max(cosine_p(likeness, len(key)), floor)
    return Detection(
        scheme=scheme,
        p_value=p,
        method=Method.EXACT,
        statistic=likeness * math.sqrt(len(key)),
        n=n,
        floor=floor,
        tails={Method.EXACT: p},
        details={"cosine": likeness, **details},
    )
