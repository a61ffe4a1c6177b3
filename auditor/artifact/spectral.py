"""What the weights of an adapter look like by groups of layers: how much changes where, and along which directions.

Every number is a function of the change itself, ``up @ down`` of a low-rank one, so that factors written otherwise,
ranks padded with zeros, an update cut in two, or another number format leave it as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from auditor.artifact.features import ModuleFeatures

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["GROUPS", "Layer", "evenness", "group_features", "group_of", "kurtosis", "layer_of"]

GROUPS = ("text", "prompt", "attention", "feed_forward", "rest")
"""Text encoders; maps from token states to keys and values; other attention; feed-forward layers; what is left."""

_TEXT = "text_encoder"
_ATTENTION = re.compile(r"(^|\.)attn\d*\.")
_FEED_FORWARD = re.compile(r"(^|\.)(ff|ff_context|mlp)\.")


@dataclass(frozen=True)
class Layer:
    """One changed weight.

    Attributes:
        name: ``component.module``.
        group: of :data:`GROUPS`.
        features: see :func:`layer_of`.
    """

    name: str
    group: str
    features: Mapping[str, float] = field(default_factory=dict)


def group_of(component: str, module: str, prompt_maps: Sequence[str]) -> str:
    """The group of a module.

    Args:
        component: ``unet``, ``text_encoder``...
        module: its path.
        prompt_maps: how names of maps from token states to keys and values end.
    """
    if component.startswith(_TEXT):
        return "text"
    if module.endswith(tuple(prompt_maps)):
        return "prompt"
    if _ATTENTION.search(module):
        return "attention"
    return "feed_forward" if _FEED_FORWARD.search(module) else "rest"


def layer_of(
    found: ModuleFeatures, weight: NDArray[Any], group: str, name: str, states: NDArray[np.float64] | None = None
) -> Layer | None:
    """Features of one changed weight; None where nothing changes, or the base has nothing there to compare with.

    ``size`` is log10 of the Frobenius norm of the change over that of the weight. Of the singular values come the
    natural logarithms of ``effective_rank`` (Roy and Vetterli 2007), ``stable_rank`` and ``evenness``
    (:func:`evenness`), where there is more than one. ``left`` and ``right`` say how strongly the base itself answers
    along the singular vectors of the largest one: ``log(sqrt(out) |u W| / |W|)`` and ``log(sqrt(in) |W v| / |W|)``, 0
    for a direction like any other. ``tokens``, where states are given, is the logarithm of the kurtosis of their
    projections on the right one: large where few words have nearly all of it.

    Args:
        found: of the change.
        weight: the base's, in the shape of the change; flattened to (out, in).
        group: see :func:`group_of`.
        name: ``component.module``.
        states: what the layer sees of the vocabulary, (N, in).
    """
    import numpy as np

    matrix = weight.reshape(weight.shape[0], -1).astype(np.float64)
    whole = float(np.linalg.norm(matrix))
    if not found.rank or not whole:
        return None
    answers = (np.linalg.norm(found.top_left @ matrix), np.linalg.norm(matrix @ found.top_right))
    left, right = (
        float(np.log(max(np.sqrt(width) * float(answer) / whole, 1e-6)))
        for width, answer in zip(matrix.shape, answers, strict=True)
    )
    features = {
        "size": float(np.log10(found.frobenius / whole)),
        "left": left,
        "right": right,
    }
    if found.rank > 1:
        features |= {
            "effective_rank": float(np.log(found.effective_rank)),
            "stable_rank": float(np.log(found.stable_rank)),
            "evenness": float(np.log(evenness(found.singular_values))),
        }
    if states is not None and states.shape[1] == matrix.shape[1]:
        features["tokens"] = float(np.log(kurtosis(states @ found.top_right)))
    return Layer(name, group, features)


def group_features(layers: Sequence[Layer]) -> dict[str, float]:
    """Means over the layers of each group as ``group.feature``, with ``group.unevenness``, the deviation of sizes.

    Groups of which nothing changes have none.
    """
    import numpy as np

    found: dict[str, float] = {}
    for group in GROUPS:
        mine = [layer.features for layer in layers if layer.group == group]
        for name in dict.fromkeys(name for features in mine for name in features):
            found[f"{group}.{name}"] = float(np.mean([f[name] for f in mine if name in f]))
        if mine:
            found[f"{group}.unevenness"] = float(np.std([f["size"] for f in mine]))
    return found


def evenness(values: NDArray[np.float64]) -> float:
    """``N (1 - G)`` for the Gini coefficient G of N values: 1 where one has all, N where all are alike.

    Unlike G it does not depend on how many zeros there are.

    Args:
        values: not negative, largest first, (n,), not all zero.
    """
    import numpy as np

    share = values / values.sum()
    return float(2 * (np.arange(1, len(share) + 1) * share).sum() - 1)


def kurtosis(values: NDArray[np.float64]) -> float:
    """Fourth central moment over the squared second, (N,): 3 for a Gaussian; 1, the least there is, for no spread."""
    import numpy as np

    centred = values - values.mean()
    square = float(np.square(centred).mean())
    return float((centred**4).mean() / square**2) if square > 0 else 1.0
