"""GLoRA (arXiv:2306.07967) in the form that LyCORIS writes: a low-rank change, and one of the base's inputs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from auditor.artifact.deltas.change import Change
from auditor.artifact.deltas.low_rank import LowRank
from auditor.artifact.tensors import Tensor
from auditor.errors import IncompatibleArtifact

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["GeneralisedLowRank"]


@dataclass(frozen=True)
class GeneralisedLowRank(Change):
    """``scale * (W @ a1 @ a2 + b1 @ [bm] @ b2)``; of a convolution the first product acts on input channels.

    Attributes:
        a1: (in, r) or (in, r, 1, 1).
        a2: (r, in) or (r, in, 1, 1).
        b1: (out, r) or (out, r, 1, 1).
        b2: (r, in) or (r, in, kh, kw).
        alpha: numerator of the scale; None means a scale of 1.
        bm: (r, r, kh, kw), the core of the second product, or None.
    """

    a1: Tensor
    a2: Tensor
    b1: Tensor
    b2: Tensor
    alpha: float | None = None
    bm: Tensor | None = None

    @cached_property
    def added(self) -> LowRank:
        """The part that does not depend on the base."""
        return LowRank(self.b2, self.b1, self.bm, alpha=self.alpha)

    @property
    def shape(self) -> tuple[int, ...]:
        """(out, in) or (out, in, kh, kw)."""
        return self.added.shape

    @property
    def rank(self) -> int:
        """The inner dimension of the products."""
        return self.added.rank

    @property
    def scale(self) -> float:
        """What both products are multiplied by, alpha / r."""
        return self.added.scale

    @property
    def needs_base(self) -> bool:
        """Always."""
        return True

    def fault(self) -> str:
        """See :meth:`Change.fault`."""
        if (
            len(self.a1.shape) not in (2, 4)
            or self.a1.shape[2:] not in ((), (1, 1))
            or self.a2.shape[2:] not in ((), (1, 1))
            or self.a1.shape[:2] != self.a2.shape[1::-1]
        ):
            return f"factors of shape {self.a1.shape} and {self.a2.shape} do not map inputs to inputs"
        fault = self.added.fault()
        if not fault and self.a1.shape[:2] != (self.shape[1], self.rank):
            return f"factors of shape {self.a1.shape} do not fit {self.shape[1]} inputs and rank {self.rank}"
        return fault

    def _delta(self, base: NDArray[np.float64] | None) -> NDArray[Any]:
        import numpy as np

        if base is None:
            raise IncompatibleArtifact("a GLoRA change depends on the base weight; give the base")
        inputs, rank = self.a1.shape[:2]
        left = self.a1.array().astype(np.float64).reshape(inputs, rank)
        right = self.a2.array().astype(np.float64).reshape(rank, inputs)
        rows = base.reshape(len(base), inputs, -1)
        mapped: NDArray[np.float64] = self.scale * np.einsum(
            "oik,ir,rj->ojk", rows, left, right, optimize=True
        )
        return mapped.reshape(base.shape) + self.added.product().reshape(base.shape)
