"""Some rows of a change whose factors cannot be cut: a Kronecker product over a fused projection, for example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from auditor.artifact.deltas.change import Change
from auditor.artifact.tensors import Tensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Rows"]


@dataclass(frozen=True)
class Rows(Change):
    """Ranges of the rows of another change, one behind the other.

    Attributes:
        whole: a change that does not depend on the base weight.
        spans: ranges of its rows, in order.
    """

    whole: Change
    spans: tuple[tuple[int, int], ...]

    @property
    def rank(self) -> int | None:
        """That of the whole."""
        return self.whole.rank

    @property
    def scale(self) -> float:
        """That of the whole."""
        return self.whole.scale

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the whole, with the rows that are taken."""
        return (sum(stop - start for start, stop in self.spans), *self.whole.shape[1:])

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Those of the whole: every row needs all of them."""
        own = () if self.bias_delta is None else (self.bias_delta,)
        return (*(t for t in self.whole.tensors if t is not self.whole.bias_delta), *own)

    def _delta(self, base: NDArray[np.float64] | None) -> NDArray[Any]:
        import numpy as np

        change = self.whole.delta()
        return np.concatenate([change[start:stop] for start, stop in self.spans])
