"""Low-rank layers that are in place, as the change they make to a weight, and a new change put into them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["change_of", "put_change"]


def change_of(layer: Any) -> Tensor:
    """``(alpha / r) B A`` of a PEFT layer, float64 (out, in)."""
    a, b, scale = _parts(layer)
    return scale * (b.double() @ a.double())


def put_change(layer: Any, change: Tensor) -> None:
    """Replaces what a PEFT layer adds by the nearest change of its own rank (truncated SVD).

    The first factor keeps the norm that it had: which factor carries how much of the product says nothing.

    Args:
        layer: a low-rank layer of a linear map, in place.
        change: (out, in).
    """
    a, b, scale = _parts(layer)
    left, values, right = torch.linalg.svd(change.double(), full_matrices=False)
    rank = min(len(a), len(values))
    share = a.double().norm() / rank**0.5
    with torch.no_grad():
        a.zero_()
        b.zero_()
        a[:rank] = share * right[:rank]
        b[:, :rank] = left[:, :rank] * values[:rank] / (share * scale)


def _parts(layer: Any) -> tuple[Tensor, Tensor, float]:
    (name,) = layer.lora_A.keys()
    return layer.lora_A[name].weight, layer.lora_B[name].weight, float(layer.scaling[name])
