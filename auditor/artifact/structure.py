"""What one matrix is made of: few directions, a Kronecker product, or another matrix times something of low rank.

Every test allows for ``noise``, the part of the matrix's norm that rounding of stored values may account for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["HADAMARD_RANK", "KroneckerFit", "hadamard_rank", "kronecker_fit", "numerical_rank", "rearranged"]

HADAMARD_RANK = 3
"""Largest rank of the offsets that E4T-like weight offsets make: one product and two biases."""

Order = Literal["plain", "shuffled"]
_ORDERS: tuple[Order, ...] = ("plain", "shuffled")
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


def kronecker_fit(
    matrix: NDArray[np.float64], noise: float = 0.0, below: float = float("inf")
) -> KroneckerFit | None:
    """The Kronecker product with fewest parameters that the matrix is, over all factor shapes and both row orders.

    Plain products of one row by one column, which every matrix of rank one is, do not count, nor do products of
    ``below`` parameters or more.
    """
    import numpy as np

    total = float(np.linalg.norm(matrix))
    if not total:
        return None
    bound = min(0.5, _SLACK * noise + 10 * _ARITHMETIC)
    passing = [shape for order in _ORDERS for shape in _probed(matrix, order, 2 * bound)]
    for parameters, a1, a2, order in sorted(passing):
        if parameters < min(below, matrix.size):
            residual = _rank_one_residual(rearranged(matrix, a1, a2, order)) / total
            if residual <= bound:
                return KroneckerFit(a1, a2, order, residual, parameters)
    return None


def _probed(matrix: NDArray[np.float64], order: Order, bound: float) -> list[tuple[int, int, int, Order]]:
    """Factor shapes for which a few 2 x 2 minors of the rearrangement R vanish, with their parameters.

    The minors are ``R_ij R_pq - R_iq R_pj`` for (p, q) the largest entry and random (i, j), all shapes at once: most
    are refused without a decomposition.
    """
    import numpy as np

    rows, columns = matrix.shape
    shapes = np.array(
        [(a1, a2) for a1 in _divisors(rows) for a2 in _divisors(columns) if _counts(a1, a2, rows, columns, order)],
        np.intp,
    ).reshape(-1, 2)
    a1, a2 = shapes[:, :1], shapes[:, 1:]
    p, q = divmod(int(np.abs(matrix).argmax()), columns)
    rng = np.random.default_rng(0)
    r, c = (rng.integers(side, size=_PROBED) for side in matrix.shape)
    if order == "plain":
        b1 = rows // a1
        cross, back = r // b1 * b1 + p % b1, p // b1 * b1 + r % b1
    else:
        cross, back = p // a1 * a1 + r % a1, r // a1 * a1 + p % a1
    b2 = columns // a2
    left, right = matrix[cross, c // b2 * b2 + q % b2], matrix[back, q // b2 * b2 + c % b2]
    errors = matrix[r, c] - left * right / matrix[p, q]
    size = max(float(np.sqrt(np.mean(matrix**2))), float(np.sqrt(np.mean(matrix[r, c] ** 2))))
    kept = np.sqrt(np.mean(errors**2, axis=1)) <= bound * size
    return [(int(x * y + matrix.size // (x * y)), int(x), int(y), order) for x, y in shapes[kept]]


def _rank_one_residual(matrix: NDArray[np.float64]) -> float:
    import numpy as np

    slim = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    first = float(np.linalg.eigvalsh(slim @ slim.T)[-1])
    return float(np.sqrt(max(0.0, float((matrix**2).sum()) - first)))


def _counts(a1: int, a2: int, rows: int, columns: int, order: Order) -> bool:
    """Whether a shape says something: both factors have entries, and they are no mere column times row."""
    b1, b2 = rows // a1, columns // a2
    if a1 * a2 == 1 or b1 * b2 == 1 or (a1 == 1 and b2 == 1) or (a2 == 1 and b1 == 1):
        return False
    return order == "plain" or (a1 > 1 and b1 > 1)


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]
