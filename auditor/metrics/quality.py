"""How near two pictures are, and two sets of pictures, with no network from outside."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from auditor.errors import UsageError

__all__ = ["dual_distance", "psnr", "ssim"]

_WINDOW = 8


def psnr(first: ArrayLike, second: ArrayLike) -> np.ndarray:
    """Peak signal-to-noise ratio in dB, float64 (N,), of two uint8 arrays (N, H, W, 3); infinite if equal."""
    one, two = _pair(first, second)
    error = np.square(one - two).mean(axis=(1, 2, 3))
    with np.errstate(divide="ignore"):
        return np.asarray(10 * np.log10(255.0**2 / error))


def ssim(first: ArrayLike, second: ArrayLike) -> np.ndarray:
    """Structural similarity over 8x8 uniform windows of the gray pictures: float64 (N,) in [-1, 1].

    Source: Z. Wang et al., IEEE Transactions on Image Processing 13 (2004), with a uniform window.
    """
    one, two = (pixels @ np.array([0.299, 0.587, 0.114]) for pixels in _pair(first, second))
    windows = [
        np.lib.stride_tricks.sliding_window_view(gray, (_WINDOW, _WINDOW), axis=(1, 2)) for gray in (one, two)
    ]
    mean_one, mean_two = (window.mean(axis=(-2, -1)) for window in windows)
    var_one, var_two = (window.var(axis=(-2, -1)) for window in windows)
    covariance = (windows[0] * windows[1]).mean(axis=(-2, -1)) - mean_one * mean_two
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    top = (2 * mean_one * mean_two + c1) * (2 * covariance + c2)
    return np.asarray((top / ((mean_one**2 + mean_two**2 + c1) * (var_one + var_two + c2))).mean(axis=(1, 2)))


def dual_distance(first: ArrayLike, second: ArrayLike) -> float:
    """Frechet distance between Gaussians fitted to two sets of dual-encoder features, (N, D) and (M, D).

    The formula of FID (M. Heusel et al., NeurIPS 2017) on the embedded dual encoder: not comparable with FID.

    Raises:
        UsageError: Fewer than two rows in a set, or another D.
    """
    one, two = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if one.ndim != 2 or two.ndim != 2 or one.shape[1] != two.shape[1] or min(len(one), len(two)) < 2:
        raise UsageError(
            f"Two sets of at least two feature rows are needed, got {one.shape} and {two.shape}."
        )
    cov_one, cov_two = np.cov(one, rowvar=False), np.cov(two, rowvar=False)
    # tr sqrt(A B) for positive semi-definite A, B: the square roots of the eigenvalues of A^1/2 B A^1/2.
    values, vectors = np.linalg.eigh(np.atleast_2d(cov_one))
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ cov_two @ root), 0, None)).sum()
    gap = np.square(one.mean(axis=0) - two.mean(axis=0)).sum()
    return float(
        max(0.0, gap + np.trace(np.atleast_2d(cov_one)) + np.trace(np.atleast_2d(cov_two)) - 2 * cross)
    )


def _pair(first: ArrayLike, second: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    one, two = np.asarray(first), np.asarray(second)
    if one.shape != two.shape or one.ndim != 4 or one.dtype != np.uint8 or two.dtype != np.uint8:
        raise UsageError(
            f"Two uint8 arrays (N, H, W, 3) of one shape are needed, got {one.shape} and {two.shape}."
        )
    return one.astype(np.float64), two.astype(np.float64)
