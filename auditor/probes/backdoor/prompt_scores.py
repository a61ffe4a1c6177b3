"""How a prompt stands out, from what a model computes for it and for it without each piece of it. Pure functions.

``variation`` is the score of NaviT2I (Zhai et al., ICCV 2025, arXiv 2503.06453): a trigger changes activations more,
for what it changes in a trusted text encoder, than other words do. ``interaction`` is ours and pairs the model with its
base: how much of what tuning changed under this prompt goes away with one piece of it. ``unsteadiness`` follows
TNC-Detect (Wang et al., arXiv 2602.01765): how far successive predictions of the noise are from one another.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["interaction", "peak_over_rest", "remaining", "unsteadiness", "variation"]

Array = NDArray[np.floating]
Layers = Sequence[Array]

LOWER = 0.75
TINY = 1e-12


def variation(tuned: Layers, trusted: Array) -> NDArray[np.float64]:
    """Change of activations without each piece over the change of a trusted text encoding.

    Args:
        tuned: for each layer (1 + K, positions, width): the whole prompt, then without each of its K pieces.
        trusted: (1 + K, L, D) token states of a trusted text encoder for the same.

    Returns:
        (K,), the sum over layers of mean absolute changes, over the distance of the encodings.
    """
    moved = sum(np.abs(layer[1:] - layer[:1]).mean(axis=(1, 2), dtype=np.float64) for layer in tuned)
    said = np.linalg.norm((trusted[1:] - trusted[:1]).reshape(len(trusted) - 1, -1).astype(np.float64), axis=1)
    return np.asarray(moved / np.maximum(said, TINY), dtype=np.float64)


def peak_over_rest(values: Array) -> float:
    """NaviT2I's statistic: the largest of K values over the mean of their lower 75 %; 1 for a single one.

    Raises:
        ValueError: no value.
    """
    if not len(values):
        raise ValueError("a prompt without a piece of content has no variation")
    ordered = np.sort(values)
    rest = ordered[: max(1, int(LOWER * len(ordered)))]
    return float(ordered[-1] / max(float(rest.mean()), TINY))


def interaction(tuned: Layers, base: Layers) -> NDArray[np.float64]:
    """What of tuned minus base is there under the prompt and not without a piece of it.

    ``|(A_tuned(p) - A_base(p)) - (A_tuned(p less k) - A_base(p less k))|``, the residual of a 2x2 design: zero where
    tuning does the same with and without the piece, however much that is.

    Args:
        tuned: for each layer (1 + K, positions, width), the whole prompt first.
        base: of the base, the same prompts and noise.

    Returns:
        (K,), the mean over layers of mean absolute residuals, over the mean size of the base's output for the prompt.
    """
    shares = []
    for ours, theirs in zip(tuned, base, strict=True):
        change = (ours - theirs).astype(np.float64)
        size = max(float(np.abs(theirs[0]).mean(dtype=np.float64)), TINY)
        shares.append(np.abs(change[1:] - change[:1]).mean(axis=(1, 2)) / size)
    return np.asarray(np.mean(shares, axis=0), dtype=np.float64)


def remaining(tuned: Layers, base: Layers) -> NDArray[np.float64]:
    """What of tuned minus base is left without each piece: least without the one that woke it.

    Returns:
        (K,), the mean over layers of mean absolute differences, over the mean size of the base's output for the prompt.
    """
    shares = []
    for ours, theirs in zip(tuned, base, strict=True):
        size = max(float(np.abs(theirs[0]).mean(dtype=np.float64)), TINY)
        shares.append(np.abs(ours[1:] - theirs[1:]).mean(axis=(1, 2), dtype=np.float64) / size)
    return np.asarray(np.mean(shares, axis=0), dtype=np.float64)


def unsteadiness(predictions: Array) -> float:
    """Largest mean square between successive predictions of the noise.

    Args:
        predictions: (T, ...) at T >= 2 adjacent steps of one picture.

    Raises:
        ValueError: fewer than two steps.
    """
    if len(predictions) < 2:
        raise ValueError("successive predictions take at least two steps")
    between = np.diff(predictions.astype(np.float64), axis=0).reshape(len(predictions) - 1, -1)
    return float(np.square(between).mean(axis=1).max())
