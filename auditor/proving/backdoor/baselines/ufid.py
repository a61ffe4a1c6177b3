"""UFID: pictures of a triggered prompt stay alike whatever is said beside it.

Guan et al., AAAI 2025 (arXiv 2404.01101): the prompt is perturbed with words of other prompts, a picture is drawn of
each, and the density of their similarity graph, the mean cosine over all pairs, is high where a trigger decides.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["density", "perturbed"]


def density(features: NDArray[np.floating]) -> float:
    """Mean cosine over all pairs of N >= 2 pictures.

    Args:
        features: (N, D), of any length but zero.

    Raises:
        ValueError: fewer than two pictures, or one without features.
    """
    lengths = np.linalg.norm(features, axis=-1, keepdims=True)
    if features.ndim != 2 or len(features) < 2 or not (lengths > 0).all():
        raise ValueError(f"features of at least two pictures are needed, (N, D), not {features.shape}")
    unit = features / lengths
    cosines = unit @ unit.T
    return float(cosines[np.triu_indices(len(unit), 1)].mean())


def perturbed(prompt: str, others: Sequence[str]) -> list[str]:
    """The prompt, and the prompt behind each of the others."""
    return [prompt, *(f"{other} {prompt}" for other in others)]
