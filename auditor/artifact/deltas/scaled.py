"""(IA)3: each output, or each input, of a layer times a learned factor (arXiv:2205.05638)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from auditor.artifact.deltas.change import Change, elements
from auditor.artifact.tensors import Tensor
from auditor.errors import IncompatibleArtifact

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Scaled"]


@dataclass(frozen=True)
class Scaled(Change):
    """The weight times one factor for each output or input.

    Attributes:
        vector: as many values as there are outputs or inputs, any shape.
        on_input: the factors are for inputs.
        around_one: the factor is one plus the value (LyCORIS) in place of the value itself (PEFT).
        with_bias: the bias is multiplied too, as PEFT does where outputs are scaled.
    """

    vector: Tensor
    on_input: bool
    around_one: bool = True
    with_bias: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """(out, 0) or (0, in): of the other axes the file says nothing."""
        size = elements(self.vector.shape)
        return (0, size) if self.on_input else (size, 0)

    @property
    def needs_base(self) -> bool:
        """Always."""
        return True

    def fault(self) -> str:
        """See :meth:`Change.fault`."""
        shape = self.vector.shape
        if elements(shape) == 0 or max(shape, default=1) != elements(shape):
            return f"factors of shape {shape} are no vector"
        return ""

    def _delta(self, base: NDArray[np.float64] | None) -> NDArray[Any]:
        if base is None or base.ndim < 2:
            raise IncompatibleArtifact(
                "a change that multiplies the base weight depends on it; give a base with such a layer"
            )
        axis = 1 if self.on_input else 0
        return base * self._beyond_one().reshape([-1 if a == axis else 1 for a in range(base.ndim)])

    def bias(self, base: NDArray[Any] | None = None) -> NDArray[np.float32] | None:
        """See :meth:`Change.bias`."""
        import numpy as np

        if not self.with_bias or self.on_input or base is None:
            return super().bias(base)
        return np.asarray(base * self._beyond_one(), dtype=np.float32)

    def _beyond_one(self) -> NDArray[np.float64]:
        import numpy as np

        values = self.vector.array().astype(np.float64).reshape(-1)
        return values if self.around_one else values - 1.0
