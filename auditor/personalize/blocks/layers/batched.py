"""Low-rank changes of many adapters in one layer: every row of a batch goes through the factors of its own adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from auditor.personalize.blocks.layers.adapted import Change

__all__ = ["BatchedLowRank", "FactorBank"]


class BatchedLowRank(Change):
    """``up_k @ down_k`` for K adapters of one rank, as one batched product; a :class:`FactorBank` lays the factors in.

    Attributes:
        downs: (K, r, in), of the adapters that the rows of the next batch belong to.
        ups: (K, out, r).
    """

    downs: Tensor
    ups: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """What is added to the output (B, ..., out) for the input (B, ..., in).

        The first B / K rows belong to the first adapter, and so on; B is a multiple of K.
        """
        rows = x.reshape(len(self.downs), -1, x.shape[-1])
        added = rows @ self.downs.transpose(1, 2) @ self.ups.transpose(1, 2)
        return added.reshape(*x.shape[:-1], -1)

    def delta(self) -> Tensor:
        """The changes of the adapters, (K, out, in)."""
        return self.ups @ self.downs


class FactorBank:
    """All factors of K adapters, one flat parameter an adapter.

    Many small parameters cost an optimiser more time than their arithmetic; one an adapter still lets every adapter
    have its own learning rate, clipping and number of steps.

    Args:
        downs: for each adapter the path of a layer to the input factor (r, in) at the start.
        outputs: path to rows of the output factor, which starts at zero.
        scales: for each adapter what its products are multiplied by.
    """

    def __init__(
        self, downs: Sequence[Mapping[str, Tensor]], outputs: Mapping[str, int], scales: Sequence[float]
    ) -> None:
        self._scales = torch.tensor(list(scales))[:, None, None]
        self._shapes: dict[str, tuple[torch.Size, tuple[int, int]]] = {
            path: (downs[0][path].shape, (out, len(downs[0][path]))) for path, out in outputs.items()
        }
        self.layers = {path: BatchedLowRank() for path in outputs}
        self.parameters = [nn.Parameter(self._flat(start)) for start in downs]

    def lay_out(self, active: Sequence[int]) -> None:
        """Gives the layers the factors of some adapters, for the next evaluation."""
        chosen = torch.stack([self.parameters[k] for k in active])
        scales = self._scales[list(active)].to(chosen.device)
        for path, (down, up) in self._parts(chosen).items():
            self.layers[path].downs, self.layers[path].ups = down, scales * up

    def factors(self, adapter: int) -> dict[str, tuple[Tensor, Tensor]]:
        """Path to copies of the factors (r, in) and (out, r) of one adapter, without its scale, on the CPU."""
        flat = self.parameters[adapter].detach().cpu()
        return {path: (down[0].clone(), up[0].clone()) for path, (down, up) in self._parts(flat[None]).items()}

    def _flat(self, downs: Mapping[str, Tensor]) -> Tensor:
        parts = []
        for path, (_, (out, rank)) in self._shapes.items():
            parts += [downs[path].float().flatten(), torch.zeros(out * rank)]
        return torch.cat(parts)

    def _parts(self, flat: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """The factors (K, r, in) and (K, out, r) in rows (K, all)."""
        shapes = [shape for pair in self._shapes.values() for shape in pair]
        parts = torch.split(flat, [rows * columns for rows, columns in shapes], dim=1)
        shaped = [part.reshape(len(flat), *shape) for part, shape in zip(parts, shapes, strict=True)]
        return dict(zip(self._shapes, zip(shaped[::2], shaped[1::2], strict=True), strict=True))
