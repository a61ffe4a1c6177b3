"""LoKr: a Kronecker product of two small matrices, each whole or in factors (LyCORIS, arXiv:2309.14859)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from auditor.artifact.deltas.change import Factored, refuse_large
from auditor.artifact.tensors import Tensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Kronecker"]


@dataclass(frozen=True)
class Kronecker(Factored):
    """``scale * kron(w1, w2)``.

    Where both are stored whole no rank is stored: LyCORIS then ignores alpha, PEFT takes the rank from its
    config (``dimension``).

    Attributes:
        w1: (a, c), or None where it is ``w1_a @ w1_b``.
        w1_a: (a, r), or None.
        w1_b: (r, c), or None.
        w2: (b, d) or (b, d, kh, kw), or None where it is ``w2_a @ w2_b``.
        w2_a: (b, r); with a core (r, b); or None.
        w2_b: (r, d) or (r, d * kh * kw); with a core (r, d); or None.
        t2: (r, r, kh, kw), the Tucker core of ``w2``, or None.
        dimension: what alpha is divided by, where that is not the stored rank.
    """

    w1: Tensor | None = None
    w1_a: Tensor | None = None
    w1_b: Tensor | None = None
    w2: Tensor | None = None
    w2_a: Tensor | None = None
    w2_b: Tensor | None = None
    t2: Tensor | None = None
    dimension: int | None = None

    @property
    def rank(self) -> int | None:
        """The inner dimension of the half that is stored in factors; None if both are whole."""
        factor = self.w2_b if self.w2_b is not None else self.w1_b
        return None if factor is None else factor.shape[0]

    @property
    def scale(self) -> float:
        """What the product is multiplied by: alpha / r, or 1 where both halves are whole and no dimension is known."""
        divisor = self.dimension or self.rank
        return self.multiplier * (1.0 if self.alpha is None or divisor is None else self.alpha / divisor)

    @property
    def shape(self) -> tuple[int, ...]:
        """(a * b, c * d), the kernel flattened into the columns unless ``w2`` or a core holds it."""
        (a, c), (b, d, *kernel) = self._shape_1(), self._shape_2()
        return (a * b, c * d, *kernel)

    def fault(self) -> str:
        """See :meth:`Change.fault`."""
        for whole, left, right in ((self.w1, self.w1_a, self.w1_b), (self.w2, self.w2_a, self.w2_b)):
            if (whole is None) == (left is None or right is None) or (left is None) != (right is None):
                return "a half of the product is stored neither whole nor as two factors"
        found = [t.shape for t in self.tensors if t is not self.magnitude and t is not self.bias_delta]
        if any(0 in shape for shape in found):
            return "a factor holds no values"
        matrices = [t.shape for t in (self.w1, self.w1_a, self.w1_b, self.w2_a, self.w2_b) if t is not None]
        if any(len(shape) != 2 for shape in matrices):
            return f"factors of shape {', '.join(map(str, matrices))} are not all matrices"
        if self.w1_a is not None and self.w1_b is not None and self.w1_a.shape[1] != self.w1_b.shape[0]:
            return f"factors of shape {self.w1_a.shape} and {self.w1_b.shape} do not multiply"
        return self._second_fault()

    def _second_fault(self) -> str:
        if self.w2 is not None:
            if self.t2 is not None:
                return "there is a core beside a half that is stored whole"
            return "" if len(self.w2.shape) in (2, 4) else f"a half of shape {self.w2.shape} is no weight"
        assert self.w2_a is not None and self.w2_b is not None
        inner, rank = self.w2_a.shape[0 if self.t2 is not None else 1], self.w2_b.shape[0]
        if inner != rank:
            return f"factors of shape {self.w2_a.shape} and {self.w2_b.shape} do not multiply"
        if self.t2 is not None and (len(self.t2.shape) != 4 or self.t2.shape[:2] != (rank, rank)):
            return f"a core of shape {self.t2.shape} does not fit rank {rank}"
        if self.w1_b is not None and self.w1_b.shape[0] != rank:
            # Some loaders divide alpha by the rank of the first half, some by that of the second.
            return f"the halves have ranks {self.w1_b.shape[0]} and {rank}, so that loaders disagree on the scale"
        return ""

    def halves(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The two matrices whose Kronecker product is the flattened weight, without the scale.

        Returns:
            Arrays (a, c) and (b, d * kh * kw), float64. The kernel may stay behind the columns of the second:
            column (i * d + j) * kh * kw + k of the product is what LyCORIS puts there.
        """
        import numpy as np

        refuse_large(self._shape_1())
        refuse_large(self._shape_2())
        first, second = _matrix(self.w1, self.w1_a, self.w1_b), None
        if self.t2 is None:
            second = _matrix(self.w2, self.w2_a, self.w2_b)
        else:
            assert self.w2_a is not None and self.w2_b is not None
            core, right = self.t2.array().astype(np.float64), self.w2_b.array().astype(np.float64)
            refuse_large((len(core), right.shape[1], *core.shape[2:]))
            joined = np.einsum("ijhw,jd->idhw", core, right)
            second = self.w2_a.array().astype(np.float64).T @ joined.reshape(len(core), -1)
        return first, second.reshape(self._shape_2()[0], -1)

    def product(self) -> NDArray[np.float32]:
        """See :meth:`Factored.product`."""
        import numpy as np

        refuse_large(self.shape)
        first, second = self.halves()
        return (self.scale * np.kron(first, second)).reshape(self.shape).astype(np.float32)

    def _shape_1(self) -> tuple[int, ...]:
        if self.w1 is not None:
            return self.w1.shape
        return (self.w1_a.shape[0], self.w1_b.shape[1]) if self.w1_a and self.w1_b else (0, 0)

    def _shape_2(self) -> tuple[int, ...]:
        if self.w2 is not None:
            return self.w2.shape
        if self.w2_a is None or self.w2_b is None:
            return (0, 0)
        if self.t2 is not None:
            return (self.w2_a.shape[1], self.w2_b.shape[1], *self.t2.shape[2:])
        return (self.w2_a.shape[0], self.w2_b.shape[1])


def _matrix(whole: Tensor | None, left: Tensor | None, right: Tensor | None) -> NDArray[np.float64]:
    import numpy as np

    if whole is not None:
        return whole.array().astype(np.float64)
    assert left is not None and right is not None
    product: NDArray[np.float64] = left.array().astype(np.float64) @ right.array().astype(np.float64)
    return product
