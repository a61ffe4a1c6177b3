"""Styles beyond flat and outline, applied to finished pixels."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

__all__ = ["pixelate", "watercolor"]


def watercolor(pixels: np.ndarray, seed: int) -> np.ndarray:
    """Soft washes: blurred shapes, pale colours and slow pigment noise. uint8 (H, W, 3) in and out."""
    soft = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1.1)), dtype=np.float32)
    rng = np.random.default_rng(seed)
    cells = rng.normal(0, 1, (9, 9)).astype(np.float32)
    wash = np.asarray(Image.fromarray(cells).resize(pixels.shape[1::-1], Image.Resampling.BICUBIC))
    pale = 255 - (255 - soft) * (0.72 + 0.16 * np.clip(wash, -2, 2))[..., None]
    return np.asarray(np.clip(np.rint(pale), 0, 255), dtype=np.uint8)


def pixelate(pixels: np.ndarray, block: int = 4) -> np.ndarray:
    """Square blocks of one colour each, quantised to steps of 16. uint8 (H, W, 3) in and out."""
    height, width, _ = pixels.shape
    means = pixels.reshape(height // block, block, width // block, block, 3).mean((1, 3))
    steps = np.clip(np.rint(means / 16) * 16, 0, 255).astype(np.uint8)
    return np.repeat(np.repeat(steps, block, 0), block, 1)
