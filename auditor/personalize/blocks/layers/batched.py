"""Low-rank changes of many adapters in one layer: every row of a batch goes through the factors of its own adapter."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from auditor.personalize.blocks.layers.adapted import Change

__all__ = ["BatchedLowRank"]


class BatchedLowRank(Change):
    """``scale_k * up_k @ down_k`` for K adapters of one rank, as one batched product a layer.

    Factors are parameters of their own, so that every adapter can have its own learning rate and clipping.

    Args:
        downs: K input factors (r, in) at the start.
        out_features: rows of the output factors, which start at zero.
        scales: K factors of the products.

    Attributes:
        active: which adapters the rows belong to: the first ``B / len(active)`` rows to the first, and so on.
    """

    def __init__(self, downs: Sequence[Tensor], out_features: int, scales: Sequence[float]) -> None:
        super().__init__()
        self.downs = nn.ParameterList([nn.Parameter(down.float().clone()) for down in downs])
        self.ups = nn.ParameterList([nn.Parameter(torch.zeros(out_features, len(down))) for down in downs])
        self.register_buffer("scales", torch.tensor(list(scales))[:, None, None])
        self.active: Sequence[int] = range(len(downs))

    def forward(self, x: Tensor) -> Tensor:
        """What is added to the output (B, ..., out) for the input (B, ..., in); B is a multiple of the active ones."""
        downs = torch.stack([self.downs[k] for k in self.active])
        ups = torch.stack([self.ups[k] for k in self.active]) * self.get_buffer("scales")[list(self.active)]
        rows = x.reshape(len(self.active), -1, x.shape[-1])
        added = rows @ downs.transpose(1, 2) @ ups.transpose(1, 2)
        return added.reshape(*x.shape[:-1], -1)

    def delta(self) -> Tensor:
        """The changes of all adapters, (K, out, in)."""
        return self.get_buffer("scales") * torch.stack([u @ d for u, d in zip(self.ups, self.downs, strict=True)])

    def of(self, adapter: int) -> list[nn.Parameter]:
        """The factors of one adapter, (r, in) and (out, r)."""
        return [self.downs[adapter], self.ups[adapter]]
