"""OFT (arXiv:2306.07280) and BOFT (arXiv:2311.06243): rotations of the outputs, as LyCORIS stores them.

Each block is a square matrix whose skew-symmetric part Q gives the rotation ``(I + Q) (I - Q)^-1`` (Cayley).
OFT applies one block-diagonal rotation, transposed; BOFT a sequence of them, between which the outputs are
shuffled as in a butterfly network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from auditor.artifact.deltas.change import Change, elements
from auditor.artifact.tensors import Tensor
from auditor.errors import IncompatibleArtifact, MalformedArtifact

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Rotation"]


@dataclass(frozen=True)
class Rotation(Change):
    """The weight with its outputs rotated, and then scaled if there is a rescale.

    Attributes:
        blocks: (n, b, b) for OFT; (m, n, b, b) for BOFT with m stages; n * b outputs.
        constraint: the norm of all Q together is at most this times the outputs; 0 for no limit. Stored as
            ``alpha``.
        rescale: a factor for each output, any shape of that many elements, or None.
    """

    blocks: Tensor
    constraint: float = 0.0
    rescale: Tensor | None = None

    @property
    def outputs(self) -> int:
        """How many outputs are rotated."""
        return self.blocks.shape[-3] * self.blocks.shape[-1]

    @property
    def shape(self) -> tuple[int, ...]:
        """(out, 0): of the other axes the file says nothing."""
        return (self.outputs, 0)

    @property
    def needs_base(self) -> bool:
        """Always."""
        return True

    def fault(self) -> str:
        """See :meth:`Change.fault`."""
        shape = self.blocks.shape
        if len(shape) not in (3, 4) or 0 in shape or shape[-1] != shape[-2]:
            return f"blocks of shape {shape} are no square blocks"
        if self.rescale is not None and elements(self.rescale.shape) != self.outputs:
            return f"a rescale of shape {self.rescale.shape} does not fit {self.outputs} outputs"
        if len(shape) == 4 and (shape[-1] % 2 or shape[0] > 32 or self.outputs % (shape[-1] << shape[0] - 1)):
            return (
                f"{shape[0]} butterfly stages of blocks of {shape[-1]} do not divide {self.outputs} outputs"
            )
        return ""

    def _delta(self, base: NDArray[np.float64] | None) -> NDArray[Any]:
        if base is None or base.ndim < 2:
            raise IncompatibleArtifact("a rotation depends on the base weight; give a base with such a layer")
        rows = base.reshape(len(base), -1)
        rotations = self._rotations()
        turned = _blockwise(rotations.swapaxes(-1, -2), rows) if rotations.ndim == 3 else rows
        for stage, rotation in enumerate(rotations if rotations.ndim == 4 else ()):
            turned = _butterfly(rotation, turned, stage)
        if self.rescale is not None:
            turned = turned * self.rescale.array().reshape(-1, 1)
        return turned - rows

    def _rotations(self) -> NDArray[np.float64]:
        import numpy as np

        stored = self.blocks.array().astype(np.float64)
        skew = stored - stored.swapaxes(-1, -2)
        limit = self.constraint * self.outputs
        norm = float(np.linalg.norm(skew)) + 1e-8
        if 0 < limit < norm:
            skew = skew * (limit / norm)
        identity = np.eye(stored.shape[-1])
        try:
            inverse = np.linalg.inv(identity - skew)
        except np.linalg.LinAlgError as error:
            raise MalformedArtifact("the blocks of a rotation are too large to give one") from error
        rotations: NDArray[np.float64] = (identity + skew) @ inverse
        return rotations


def _blockwise(rotations: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.float64]:
    blocks, size, _ = rotations.shape
    turned: NDArray[np.float64] = rotations @ rows.reshape(blocks, size, -1)
    return turned.reshape(rows.shape)


def _butterfly(rotations: NDArray[np.float64], rows: NDArray[np.float64], stage: int) -> NDArray[np.float64]:
    """One stage: outputs 2^stage half-blocks apart meet in a block, are rotated, and go back to their places."""
    apart = (rotations.shape[-1] // 2) << stage
    columns = rows.shape[1]
    met = rows.reshape(-1, 2, apart, columns).swapaxes(1, 2).reshape(rows.shape)
    turned = _blockwise(rotations, met)
    return turned.reshape(-1, apart, 2, columns).swapaxes(1, 2).reshape(rows.shape)
