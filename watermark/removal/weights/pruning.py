"""The smallest weights set to zero."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from auditor.errors import UsageError
from auditor.pipeline.components import Components
from watermark.removal.weights.swapping import matrices, swapped

__all__ = ["pruned"]


def pruned(components: Components, part: float) -> AbstractContextManager[None]:
    """The denoiser without the smallest weights of each layer.

    Source: S. Han et al., Learning both Weights and Connections for Efficient Neural Networks, NeurIPS 2015, arXiv
    1506.02626, without the training that follows there.

    Args:
        components: whose denoiser it is.
        part: of the weights of each layer that are set to zero, in [0, 1).

    Raises:
        UsageError: another part.
    """
    if not 0 <= part < 1:
        raise UsageError(f"the part of weights to prune lies in [0, 1), not at {part:g}")
    return swapped({weight: _without(weight.data, part) for weight in matrices(components.denoiser_model)})


def _without(weight: Tensor, part: float) -> Tensor:
    count = math.floor(part * weight.numel())
    if not count:
        return weight
    out = weight.flatten().clone()
    out[torch.topk(out.abs(), count, largest=False).indices] = 0
    return out.view_as(weight)
