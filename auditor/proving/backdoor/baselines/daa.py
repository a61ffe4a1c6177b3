"""Dynamic attention analysis: in a triggered prompt the attention to the end of text changes out of step.

Wang et al., TPAMI 2025 (arXiv 2504.20518), two figures over the first steps of a picture that is drawn in 50. In DAA-I
tokens are looked at one by one: how much more the map of the end of text changes from step to step than the others do.
In DAA-S they are a graph whose state x, at first the norm of each map, follows ``x' = F x + A(t) x``, with a decay F of
-1, of -10 at the end of text, and the negative Laplacian A(t) of how near the maps are to one another at step t; the
figure is how much faster the end of text falls than the others. Both papers' figures are small for triggered prompts;
here they are turned around, so that larger is more suspicious.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import expm

__all__ = ["dissipation", "laplacian", "unrest"]

Array = NDArray[np.float64]

STEPS_OF_UNREST = (3, 4)
STEPS_OF_DISSIPATION = 7
DECAY, DECAY_OF_END = -1.0, -10.0


def unrest(maps: NDArray[np.floating]) -> float:
    """The negative of DAA-I.

    Args:
        maps: (T, L, h, w) attention at T > 4 steps to L >= 3 tokens, the first the start of text, the last its end.

    Raises:
        ValueError: too few steps or tokens.
    """
    checked = _checked(maps, max(STEPS_OF_UNREST) + 1)
    changes = np.linalg.norm(np.diff(checked, axis=0).reshape(len(checked) - 1, checked.shape[1], -1), axis=2)
    ahead = changes[:, -1] - changes[:, 1:-1].mean(axis=1)
    return -float(sum(ahead[step - 1] for step in STEPS_OF_UNREST))


def dissipation(maps: NDArray[np.floating]) -> float:
    """DAA-S over the first seven steps, solved exactly with A(t) constant within each step.

    Args:
        maps: (T, L, h, w) as for :func:`unrest`, T > 7.

    Returns:
        Change of the end of text less the mean change of the other tokens; the paper's figure is its negative.

    Raises:
        ValueError: too few steps or tokens.
    """
    nodes = _checked(maps, STEPS_OF_DISSIPATION + 1)[:, 1:]
    decay = np.full(nodes.shape[1], DECAY)
    decay[-1] = DECAY_OF_END
    start = np.linalg.norm(nodes[0].reshape(len(decay), -1), axis=1)
    state = start
    for step in range(STEPS_OF_DISSIPATION):
        state = expm(np.diag(decay) + laplacian(nodes[step])) @ state
    change = state - start
    return float(change[-1] - change[:-1].mean())


def laplacian(maps: NDArray[np.floating]) -> Array:
    """The negative Laplacian (L, L) of the graph whose edges say how near L maps (L, h, w) are to one another.

    An edge weighs ``(d_max - d_ij) / d_max`` with Frobenius distances d; maps that are all alike are fully joined.
    """
    rows = maps.reshape(len(maps), -1).astype(np.float64)
    apart = np.linalg.norm(rows[:, None] - rows, axis=2)
    farthest = apart.max()
    near = 1 - apart / farthest if farthest > 0 else np.ones_like(apart)
    np.fill_diagonal(near, 0.0)
    return np.asarray(near - np.diag(near.sum(axis=0)), dtype=np.float64)


def _checked(maps: NDArray[np.floating], steps: int) -> Array:
    if maps.ndim != 4 or len(maps) < steps or maps.shape[1] < 3:
        raise ValueError(f"maps of {steps} steps and 3 tokens at least are needed, (T, L, h, w), not {maps.shape}")
    return maps.astype(np.float64)
