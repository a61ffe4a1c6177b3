"""Differences stored in full: LyCORIS ``diff``, ``diff_b``, and ``w_norm``, ``b_norm`` of normalisation layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from auditor.artifact.deltas.change import Change
from auditor.artifact.tensors import Tensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Dense"]


@dataclass(frozen=True)
class Dense(Change):
    """A difference stored in full, in the shape of the weight.

    Attributes:
        value: what is added to the weight, or None where only the bias changes.
    """

    value: Tensor | None

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the stored difference; where only the bias changes, the size of the first axis."""
        if self.value is not None:
            return self.value.shape
        return (*self.bias_delta.shape[:1], 0) if self.bias_delta is not None else (0,)

    def fault(self) -> str:
        """See :meth:`Change.fault`."""
        return next((f"'{t.name}' holds no values" for t in self.tensors if 0 in t.shape), "")

    def _delta(self, base: NDArray[np.float64] | None) -> NDArray[Any]:
        import numpy as np

        if self.value is not None:
            return self.value.array()
        return np.zeros(base.shape if base is not None else self.shape)
