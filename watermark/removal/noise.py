"""Gaussian noise on pixels."""

from __future__ import annotations

from torch import Tensor

from watermark.removal.attack import Removal, drawn, rows

__all__ = ["NOISE"]


def _noisy(image: Tensor, sigma: float, seed: int) -> Tensor:
    return image + sigma * drawn(seed, image.shape).to(image)


NOISE = Removal(
    id="noise",
    goal="Add Gaussian noise to every pixel.",
    unit="standard deviation, in parts of the range from black to white",
    grid=(0.02, 0.05, 0.1),
    least=0,
    most=1,
    refs=("Y. Wen et al., Tree-Ring Watermarks, NeurIPS 2023, arXiv 2305.20030",),
    effect=rows(_noisy),
)
