"""New parameters in place of old ones: ``modules_to_save`` of PEFT, ResAdapter's normalisation layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from auditor.artifact.deltas.change import Change
from auditor.artifact.tensors import Tensor
from auditor.errors import IncompatibleArtifact

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Overwrite"]


@dataclass(frozen=True)
class Overwrite(Change):
    """New parameters for a module, in place of a change to the old ones.

    Attributes:
        value: the new ``weight``, or None if it stays.
        new_bias: the new ``bias``, or None if it stays.
    """

    value: Tensor | None = None
    new_bias: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the new weight, or of the new bias where only that changes."""
        tensor = self.value if self.value is not None else self.new_bias
        return () if tensor is None else tensor.shape

    @property
    def needs_base(self) -> bool:
        """Always."""
        return True

    def fault(self) -> str:
        """See :meth:`Change.fault`."""
        return next((f"'{t.name}' holds no values" for t in self.tensors if 0 in t.shape), "")

    def _delta(self, base: NDArray[np.float64] | None) -> NDArray[Any]:
        """The change of ``weight``, or of ``bias`` where only that is replaced."""
        tensor = self.value if self.value is not None else self.new_bias
        if tensor is None or base is None:
            raise IncompatibleArtifact(
                "the change made by an overwritten weight depends on the base; give the base"
            )
        return tensor.array().reshape(base.shape) - base
