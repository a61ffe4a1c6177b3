"""Low-rank changes: LoRA (arXiv:2106.09685), LoCon with a Tucker core, DoRA (arXiv:2402.09353)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from auditor.artifact.deltas.change import Factored, elements, refuse_large
from auditor.artifact.tensors import Tensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["LowRank"]


@dataclass(frozen=True)
class LowRank(Factored):
    """A low-rank change of a weight, ``scale * up @ [mid] @ down``.

    Attributes:
        down: (r, in) or (r, in, kh, kw); with ``mid`` (r, in) or (r, in, 1, 1).
        up: (out, r) or (out, r, 1, 1).
        mid: (r, r, kh, kw), the core of a Tucker decomposition (LoCon).
        rank_stabilised: the scale is alpha / sqrt(r) (arXiv:2312.03732) in place of alpha / r.
    """

    down: Tensor
    up: Tensor
    mid: Tensor | None = None
    rank_stabilised: bool = False

    @property
    def rank(self) -> int:
        """The inner dimension as stored; :mod:`auditor.artifact.features` measures the numerical rank."""
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        """What the product of the factors is multiplied by."""
        if self.alpha is None:
            return self.multiplier
        return self.multiplier * self.alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)

    @property
    def shape(self) -> tuple[int, ...]:
        """(out, in) or (out, in, kh, kw)."""
        kernel = self.down.shape[2:] if self.mid is None else self.mid.shape[2:]
        return (self.up.shape[0], self.down.shape[1], *kernel)

    def fault(self) -> str:
        """See :meth:`Change.fault`."""
        down, up = self.down.shape, self.up.shape
        if len(down) not in (2, 4) or len(up) not in (2, 4) or 0 in down or 0 in up:
            return f"factors of shape {down} and {up} are neither linear nor convolution factors"
        if up[2:] not in ((), (1, 1)):
            return f"the up factor {up} has a kernel of its own"
        if self.mid is None:
            if down[0] != up[1]:
                return f"factors of shape {down} and {up} do not multiply"
        elif not _is_core(self.mid.shape, up[1], down[0]) or down[2:] not in ((), (1, 1)):
            return f"factors of shape {down}, {self.mid.shape} and {up} do not multiply"
        if self.magnitude is not None and elements(self.magnitude.shape) not in (up[0], down[1]):
            return f"a magnitude of shape {self.magnitude.shape} fits neither {up[0]} outputs nor {down[1]} inputs"
        return ""

    def factors(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Reads the two factors of the weight flattened to (out, in * kh * kw), without the scale.

        Returns:
            Arrays (out, r) and (r, in * kh * kw), float64.
        """
        import numpy as np

        up = self.up.array().astype(np.float64).reshape(self.up.shape[0], -1)
        down = self.down.array().astype(np.float64)
        if self.mid is None:
            return up, down.reshape(self.rank, -1)
        core = self.mid.array().astype(np.float64)
        joined = np.einsum("abhw,bi->aihw", core, down.reshape(core.shape[1], -1))
        return up, joined.reshape(core.shape[0], -1)

    def product(self) -> NDArray[np.float32]:
        """See :meth:`Factored.product`."""
        import numpy as np

        refuse_large(self.shape)
        left, right = self.factors()
        return (self.scale * (left @ right)).reshape(self.shape).astype(np.float32)


def _is_core(mid: tuple[int, ...], left: int, right: int) -> bool:
    return len(mid) == 4 and 0 not in mid and mid[:2] == (left, right)
