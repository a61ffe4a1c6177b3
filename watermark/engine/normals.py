"""Standard normal latents whose signs are given: the marginals stay exactly those of unmarked noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from watermark.keys import Stream

__all__ = ["signed_normals", "tail_normals", "tail_positions"]

FloatArray = NDArray[np.float64]


def signed_normals(signs: FloatArray, stream: Stream) -> FloatArray:
    """Normals with these signs: magnitudes are half-normal and independent of them (n,).

    Source: Z. Yang et al., Gaussian Shading, CVPR 2024, arXiv 2404.04956, whose truncated sampling comes to the same.
    """
    return signs * np.abs(stream.normals(len(signs)))


def tail_positions(count: int, stream: Stream) -> NDArray[np.intp]:
    """Half of ``range(count)``, drawn at random, in random order: where the large magnitudes go."""
    return stream.permutation(count)[: count // 2]


def tail_normals(count: int, positions: NDArray[np.intp], signs: FloatArray, stream: Stream) -> FloatArray:
    """Normals whose larger half by magnitude stands at ``positions``, with these signs; the rest has fair signs.

    Magnitudes are drawn independently and only moved, to places that do not depend on them, so that as long as
    ``positions`` are fresh and secret the latents are independent standard normals. A large value keeps its sign
    through sampling and inversion more often than a small one.

    Source: T2SMark, NeurIPS 2025, arXiv 2510.22366 (there at places that one key fixes for every picture, which the
    variance of a coordinate over many pictures gives away).

    Args:
        count: how many, n.
        positions: (n // 2,), see :func:`tail_positions`.
        signs: (n // 2,).
        stream: for magnitudes and the signs of the rest.
    """
    magnitudes = np.abs(stream.normals(count))
    order = np.argsort(-magnitudes, kind="stable")
    large = np.zeros(count, dtype=bool)
    large[order[: len(positions)]] = True
    out = np.empty(count)
    rest = np.ones(count, dtype=bool)
    rest[positions] = False
    out[positions] = signs * magnitudes[large]
    out[rest] = stream.signs(int(rest.sum())) * magnitudes[~large]
    return out
