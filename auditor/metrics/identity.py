"""Whether two pictures show one person: embeddings, their cosine, the threshold at a false-accept rate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from auditor.errors import UsageError
from auditor.metrics.pixels import batched
from auditor.world.embedded import load_identity

__all__ = ["cosine", "embed", "impostor_scores", "tar_at", "threshold_at"]


def embed(
    pixels: np.ndarray, *, device: str | torch.device = "cpu", batch: int = 100, folder: Path | None = None
) -> np.ndarray:
    """Unit vectors, float32 (N, 64), of pictures of one person each, uint8 (N, H, W, 3)."""
    return batched(pixels, load_identity(device, folder), device, batch)


def cosine(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosine of row i of two sets of unit vectors (N, D): float (N,) in [-1, 1]."""
    return np.asarray((first * second).sum(axis=-1))


def impostor_scores(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosines of every row of ``first`` with every *other* row of ``second``; row i is the same person.

    Args:
        first: Unit vectors (N, D).
        second: Unit vectors (N, D).

    Returns:
        float (N * (N - 1),). They are dependent (each person is in 2 (N - 1) of them): bootstrap over people.
    """
    scores = first @ second.T
    return np.asarray(scores[~np.eye(len(scores), dtype=bool)])


def threshold_at(impostors: np.ndarray, far: float = 1e-3) -> float:
    """The smallest score that at most a share ``far`` of the impostor scores exceeds.

    Raises:
        UsageError: ``far`` not in (0, 1), or fewer than 1 / ``far`` scores, which cannot show such a rate.
    """
    if not 0 < far < 1:
        raise UsageError(f"A false-accept rate lies between 0 and 1, got {far}.")
    if len(impostors) * far < 1:
        raise UsageError(
            f"A false-accept rate of {far} needs {int(np.ceil(1 / far))} impostor pairs or more."
        )
    allowed = int(len(impostors) * far)
    return float(np.partition(impostors, len(impostors) - 1 - allowed)[len(impostors) - 1 - allowed])


def tar_at(genuine: np.ndarray, threshold: float) -> float:
    """True-accept rate: the share of genuine scores strictly above ``threshold``."""
    return float((genuine > threshold).mean())
