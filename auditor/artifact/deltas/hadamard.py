"""LoHa: the elementwise product of two low-rank products (FedPara, arXiv:2108.06098; LyCORIS, arXiv:2309.14859)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from auditor.artifact.deltas.change import Factored, refuse_large
from auditor.artifact.tensors import Tensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Hadamard"]


@dataclass(frozen=True)
class Hadamard(Factored):
    """``scale * (w1_a @ w1_b) * (w2_a @ w2_b)``, elementwise in the middle.

    Attributes:
        w1_a: (out, r); with cores (r, out).
        w1_b: (r, in) or (r, in * kh * kw); with cores (r, in).
        w2_a: as ``w1_a``.
        w2_b: as ``w1_b``.
        t1: (r, r, kh, kw), the Tucker core of the first product, or None.
        t2: that of the second.
    """

    w1_a: Tensor
    w1_b: Tensor
    w2_a: Tensor
    w2_b: Tensor
    t1: Tensor | None = None
    t2: Tensor | None = None

    @property
    def rank(self) -> int:
        """That of each of the two products; the rank of their elementwise product is up to its square."""
        return self.w1_b.shape[0]

    @property
    def scale(self) -> float:
        """What the product is multiplied by, alpha / r."""
        return self.multiplier * (1.0 if self.alpha is None else self.alpha / self.rank)

    @property
    def shape(self) -> tuple[int, ...]:
        """(out, columns), the kernel flattened; with cores (out, in, kh, kw)."""
        if self.t1 is None:
            return (self.w1_a.shape[0], self.w1_b.shape[1])
        return (self.w1_a.shape[1], self.w1_b.shape[1], *self.t1.shape[2:])

    def fault(self) -> str:
        """See :meth:`Change.fault`."""
        halves = ((self.w1_a, self.w1_b, self.t1), (self.w2_a, self.w2_b, self.t2))
        shapes = [tuple(t.shape for t in half if t is not None) for half in halves]
        if (self.t1 is None) != (self.t2 is None):
            return "only one of the two products has a core"
        if any(len(s) != 2 or 0 in s for half in shapes for s in half[:2]) or shapes[0] != shapes[1]:
            return f"factors of shape {shapes[0]} and {shapes[1]} are no pair of equal products"
        out_axis = 1 if self.t1 is None else 0
        if self.w1_a.shape[out_axis] != self.rank:
            return f"factors of shape {self.w1_a.shape} and {self.w1_b.shape} do not multiply"
        core = self.t1.shape if self.t1 is not None else (self.rank, self.rank, 1, 1)
        if len(core) != 4 or 0 in core or core[:2] != (self.rank, self.rank):
            return f"a core of shape {core} does not fit rank {self.rank}"
        return ""

    def factors(self) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """Two factors of the flattened weight, without the scale, or None where they are no smaller than it.

        Row by row the elementwise product of two products is the product of the Khatri-Rao products of their
        factors.

        Returns:
            Arrays (out, r * r) and (r * r, columns), float64.
        """
        import numpy as np

        (left_1, right_1), (left_2, right_2) = self._halves()
        inner = len(right_1) * len(right_2)
        if inner > min(len(left_1), right_1.shape[1]):
            return None
        left = np.einsum("or,os->ors", left_1, left_2).reshape(len(left_1), inner)
        return left, np.einsum("rc,sc->rsc", right_1, right_2).reshape(inner, -1)

    def product(self) -> NDArray[np.float32]:
        """See :meth:`Factored.product`."""
        import numpy as np

        refuse_large(self.shape)
        (left_1, right_1), (left_2, right_2) = self._halves()
        change = self.scale * (left_1 @ right_1) * (left_2 @ right_2)
        return change.reshape(self.shape).astype(np.float32)

    def _halves(self) -> tuple[tuple[NDArray[np.float64], NDArray[np.float64]], ...]:
        halves = ((self.w1_a, self.w1_b, self.t1), (self.w2_a, self.w2_b, self.t2))
        return tuple(_half(*half) for half in halves)


def _half(a: Tensor, b: Tensor, core: Tensor | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    import numpy as np

    left, right = a.array().astype(np.float64), b.array().astype(np.float64)
    if core is None:
        return left, right
    refuse_large((len(right), right.shape[1], *core.shape[2:]))
    joined = np.einsum("ijhw,jc->ichw", core.array().astype(np.float64), right)
    return left.T, joined.reshape(len(joined), -1)
