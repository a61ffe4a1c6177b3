"""What one matrix is made of: few directions, a Kronecker product, or another matrix times something of low rank.

Every test allows for ``noise``, the part of the matrix's norm that rounding of stored values may account for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["HADAMARD_RANK", "KroneckerFit", "hadamard_rank", "kronecker_fit", "numerical_rank", "rearranged"]

HADAMARD_RANK = 3
"""Largest rank of the offsets that E4T-like weight offsets make: one product and two biases."""

Order = Literal["plain", "shuffled"]
_PROBED = 96
_SLACK = 8.0
_ARITHMETIC = 2e-6


@dataclass(frozen=True)
class KroneckerFit:
    """``A (x) B`` with A (a1, a2).

    Attributes:
        a1: rows of the left factor.
        a2: its columns.
        order: ``shuffled`` where output rows are permuted as by the released code of DiffuseKronA.
        residual: norm of what the product does not explain, over the norm of the matrix.
        parameters: entries of both factors.
    """

    a1: int
    a2: int
    order: Order
    residual: float
    parameters: int


def numerical_rank(matrix: NDArray[np.float64], noise: float = 0.0) -> int:
    """The least r such that a matrix of rank r lies within twice the noise, in Frobenius norm; 0 for zeros."""
    import numpy as np

    energy = np.linalg.svd(matrix, compute_uv=False) ** 2
    if not energy.size or not energy[0]:
        return 0
    left = np.sqrt(np.cumsum(energy[::-1])[::-1] / energy.sum())
    return int((left > 2 * noise + _ARITHMETIC).sum())


def hadamard_rank(delta: NDArray[np.float64], base: NDArray[Any], noise: float = 0.0) -> int | None:
    """Numerical rank of ``delta / base``, entry by entry; None where it cannot be told.

    A multiplicative change leaves zeros of the base as they are: None where it does not, or where hardly a column of
    the base is without zeros.
    """
    import numpy as np

    weight = np.asarray(base, np.float64).reshape(delta.shape)
    zeros = weight == 0
    size = float(np.sqrt(np.mean(delta**2)))
    if size == 0 or np.abs(delta[zeros]).sum() > 4 * noise * size * zeros.sum():
        return None
    columns = ~zeros.any(axis=0)
    if columns.sum() <= 4 * HADAMARD_RANK:
        return None
    return numerical_rank(delta[:, columns] / weight[:, columns], noise)


def rearranged(matrix: NDArray[np.float64], a1: int, a2: int, order: Order) -> NDArray[np.float64]:
    """Van Loan's rearrangement (a1 a2, b1 b2), of rank one exactly where the matrix is ``A (x) B``."""
    rows, columns = matrix.shape
    b1, b2 = rows // a1, columns // a2
    if order == "plain":
        return matrix.reshape(a1, b1, a2, b2).transpose(0, 2, 1, 3).reshape(a1 * a2, b1 * b2)
    return matrix.reshape(b1, a1, a2, b2).transpose(1, 2, 0, 3).reshape(a1 * a2, b1 * b2)


def kronecker_fit(matrix: NDArray[np.float64], noise: float = 0.0) -> KroneckerFit | None:
    """The Kronecker product with fewest parameters that the matrix is, over all factor shapes and both row orders.

    Plain products of one row by one column, which every matrix of rank one is, do not count.
    """
    import numpy as np

    rows, columns = matrix.shape
    total = float(np.linalg.norm(matrix))
    if not total:
        return None
    bound = min(0.5, _SLACK * noise + 10 * _ARITHMETIC)
    candidates = sorted(
        (a1 * a2 + rows * columns // (a1 * a2), a1, a2, order)
        for a1 in _divisors(rows)
        for a2 in _divisors(columns)
        for order in _orders(a1, a2, rows, columns)
    )
    probe = _Probe(matrix)
    for parameters, a1, a2, order in candidates:
        if parameters < matrix.size and probe.passes(a1, a2, order, bound):
            residual = _rank_one_residual(rearranged(matrix, a1, a2, order)) / total
            if residual <= bound:
                return KroneckerFit(a1, a2, order, residual, parameters)
    return None


class _Probe:
    """Looks at a few 2 x 2 minors through the largest entry before anything is decomposed."""

    def __init__(self, matrix: NDArray[np.float64]) -> None:
        import numpy as np

        self._matrix = matrix
        flat = int(np.abs(matrix).argmax())
        self._pivot = np.array(divmod(flat, matrix.shape[1]))
        rng = np.random.default_rng(0)
        self._places = np.stack([rng.integers(side, size=_PROBED) for side in matrix.shape])

    def passes(self, a1: int, a2: int, order: Order, bound: float) -> bool:
        """Whether ``R_ij R_pq = R_iq R_pj`` for random (i, j), (p, q) the pivot, R the rearrangement."""
        import numpy as np

        rows, columns = self._matrix.shape
        (r, c), (p, q) = self._places, self._pivot
        if order == "plain":
            cross = (r // (rows // a1)) * (rows // a1) + p % (rows // a1)
            back = (p // (rows // a1)) * (rows // a1) + r % (rows // a1)
        else:
            cross, back = (p // a1) * a1 + r % a1, (r // a1) * a1 + p % a1
        b2 = columns // a2
        left = self._matrix[cross, (c // b2) * b2 + q % b2]
        right = self._matrix[back, (q // b2) * b2 + c % b2]
        seen = self._matrix[r, c]
        error = seen - left * right / self._matrix[p, q]
        scale = np.sqrt(np.mean(self._matrix**2))
        return bool(np.sqrt(np.mean(error**2)) <= 2 * bound * max(float(scale), float(np.sqrt(np.mean(seen**2)))))


def _rank_one_residual(matrix: NDArray[np.float64]) -> float:
    import numpy as np

    slim = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    first = float(np.linalg.eigvalsh(slim @ slim.T)[-1])
    return float(np.sqrt(max(0.0, float((matrix**2).sum()) - first)))


def _orders(a1: int, a2: int, rows: int, columns: int) -> Iterator[Order]:
    b1, b2 = rows // a1, columns // a2
    if a1 * a2 == 1 or b1 * b2 == 1 or (a1 == 1 and b2 == 1) or (a2 == 1 and b1 == 1):
        return
    yield "plain"
    if a1 > 1 and b1 > 1:
        yield "shuffled"


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]
