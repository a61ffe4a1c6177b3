"""Weight features of each change that do not depend on how it was written down.

A low-rank product ``up @ down`` is the same for any invertible R in ``(up R) (R^-1 down)``, and for factors
padded with zeros. Everything here is a function of the product: thin QR of both factors, then SVD of the
small core (singular values of the product, exactly, at the cost of the rank), never an SVD of a factor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from auditor.artifact.adapter import Adapter, Delta, Factored, Hadamard, Kronecker, LowRank
from auditor.errors import MalformedArtifact
from auditor.text import inert

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["BaseWeight", "ModuleFeatures", "adapter_features", "delta_features", "summed_features"]

_EPSILON = 2.0**-52
_EPSILON_32 = 2.0**-23

# (component, module path) -> the base weight, or None where the base has no such module.
BaseWeight: TypeAlias = "Callable[[str, str], NDArray[Any] | None]"


@dataclass(frozen=True)
class ModuleFeatures:
    """Features of one change, of the weight flattened to (out, rest).

    Attributes:
        component: the component the module is in.
        path: the module path.
        shape: shape of the weight that changes.
        stored_rank: inner dimension of the factors as stored, or None.
        singular_values: of the change, largest first, those above rounding error only, float64.
        top_left: left singular vector of the largest one, (out,), its entry of largest size positive.
        top_right: right singular vector of the largest one, (in * kh * kw,), signed to match.
        partial: the change also has a DoRA magnitude whose effect needs the base and is not in here.
    """

    component: str
    path: str
    shape: tuple[int, ...]
    stored_rank: int | None
    singular_values: NDArray[np.float64]
    top_left: NDArray[np.float64]
    top_right: NDArray[np.float64]
    partial: bool = False

    @property
    def rank(self) -> int:
        """Numerical rank."""
        return int(self.singular_values.size)

    @property
    def spectral_norm(self) -> float:
        """Largest singular value; 0 for no change."""
        return float(self.singular_values[0]) if self.rank else 0.0

    @property
    def frobenius(self) -> float:
        """Frobenius norm; 0 for no change."""
        return float((self.singular_values**2).sum() ** 0.5)

    @property
    def stable_rank(self) -> float:
        """Squared Frobenius over squared spectral norm, 1..rank; 0 for no change."""
        return (self.frobenius / self.spectral_norm) ** 2 if self.rank else 0.0

    @property
    def effective_rank(self) -> float:
        """Exponential entropy of the singular values' shares (Roy & Vetterli 2007), 1..rank; 0 for none."""
        import numpy as np

        if not self.rank:
            return 0.0
        share = self.singular_values / self.singular_values.sum()
        return float(np.exp(-(share * np.log(share)).sum()))

    @property
    def top_energy(self) -> float:
        """Share of the squared Frobenius norm in the largest singular value, 0..1; 0 for no change."""
        return 1.0 / self.stable_rank if self.rank else 0.0


def adapter_features(adapter: Adapter, base: BaseWeight | None = None) -> Iterator[ModuleFeatures]:
    """Features of every change that can be measured, in the order of :meth:`Adapter.modules`.

    Args:
        adapter: its tensors are read here, one module at a time.
        base: gives base weights. Without it changes that are nothing without one (overwritten, scaled or
            rotated weights) are left out, and DoRA changes are measured without their magnitude and marked
            ``partial``.
    """
    for component, path, delta in adapter.modules():
        weight = base(component, path) if base is not None else None
        found = delta_features(delta, weight, component, path)
        if found is not None:
            yield found


def delta_features(
    delta: Delta, base: NDArray[Any] | None = None, component: str = "", path: str = ""
) -> ModuleFeatures | None:
    """Features of one change, or None for one that is nothing without its base weight.

    Raises:
        IncompatibleArtifact: the base weight has another shape.
        MalformedArtifact: a value is NaN or infinite.
    """
    partial = False
    if isinstance(delta, Factored) and (delta.magnitude is None or base is None):
        partial = delta.magnitude is not None
        left, values, right = _factored_svd(delta, path)
    elif delta.needs_base and base is None:
        return None
    else:
        left, values, right = _dense_svd(_finite(delta.delta(base).astype("float64"), path))
    shape = delta.shape if base is None else tuple(base.shape)
    return ModuleFeatures(component, path, shape, delta.rank, values, left, right, partial)


def summed_features(
    deltas: Sequence[Delta], base: NDArray[Any] | None = None, component: str = "", path: str = ""
) -> ModuleFeatures | None:
    """Features of what several changes of one module do together: an update cut in two is the update.

    Args:
        deltas: one or more, each as it changes ``base``.
        base: the weight; needed where a change is nothing without it.
        component: the component the module is in.
        path: the module path.

    Raises:
        IncompatibleArtifact: the base weight has another shape.
        MalformedArtifact: a value is NaN or infinite.
    """
    import numpy as np

    if len(deltas) == 1:
        return delta_features(deltas[0], base, component, path)
    if base is None and any(delta.needs_base for delta in deltas):
        return None
    stacked = [_slim(delta) for delta in deltas]
    if all(each is not None for each in stacked):
        left, right = (
            np.concatenate(factors, axis)
            for factors, axis in zip(zip(*[each for each in stacked if each], strict=True), (1, 0), strict=True)
        )
        u, values, v = _product_svd(_finite(left, path), _finite(right, path), 1.0)
    else:
        total = sum(delta.delta(base).astype("float64").reshape(delta.shape[0], -1) for delta in deltas)
        u, values, v = _dense_svd(_finite(np.asarray(total), path))
    shape = deltas[0].shape if base is None else tuple(base.shape)
    return ModuleFeatures(component, path, shape, None, values, u, v)


def _slim(delta: Delta) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Factors with the scale in the first; None where a change has none, or a magnitude beside them."""
    factors = delta.factors() if isinstance(delta, LowRank | Hadamard) and delta.magnitude is None else None
    return None if factors is None else (delta.scale * factors[0], factors[1])


def _finite(values: NDArray[np.float64], path: str) -> NDArray[np.float64]:
    import numpy as np

    if not np.isfinite(values).all():
        raise MalformedArtifact(
            f"the change of '{inert(path)}' holds NaN or infinite values; it cannot be measured"
        )
    return values


_Svd: TypeAlias = "tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]"


def _factored_svd(delta: Factored, path: str) -> _Svd:
    """By the factors wherever they are smaller than the weight."""
    if isinstance(delta, Kronecker):
        first, second = delta.halves()
        return _kronecker_svd(_finite(first, path), _finite(second, path), delta.scale)
    factors = delta.factors() if isinstance(delta, LowRank | Hadamard) else None
    if factors is None:
        return _dense_svd(_finite(delta.product().astype("float64"), path))
    left, right = factors
    return _product_svd(_finite(left, path), _finite(right, path), delta.scale)


def _kronecker_svd(first: NDArray[np.float64], second: NDArray[np.float64], scale: float) -> _Svd:
    """Singular values of a Kronecker product are all products of those of its halves, vectors likewise."""
    import numpy as np

    u, values, v = _dense_svd(first)
    p, others, q = _dense_svd(second)
    products = np.sort(np.outer(values, others).reshape(-1))[::-1] * abs(scale)
    sign = -1.0 if scale < 0 else 1.0
    left, right = (np.asarray(np.kron(*pair)[:, None], np.float64) for pair in ((u, p), (v, q)))
    return _trimmed(left, products, sign * right, 0.0)


def _product_svd(left: NDArray[np.float64], right: NDArray[np.float64], scale: float) -> _Svd:
    import numpy as np

    left_basis, left_core = np.linalg.qr(left)
    right_basis, right_core = np.linalg.qr(right.T)
    u, values, vt = np.linalg.svd(scale * (left_core @ right_core.T))
    # Rounding error is relative to the factors: a product that cancels leaves noise of this size, not rank.
    floor = (
        abs(scale)
        * float(np.linalg.norm(left_core) * np.linalg.norm(right_core))
        * _EPSILON
        * max(left.shape)
    )
    return _trimmed(left_basis @ u[:, :1], values, right_basis @ vt[:1].T, floor)


def _dense_svd(change: NDArray[np.float64]) -> _Svd:
    """By the smaller Gram matrix: what squaring loses lies far below the rounding of weights, which is cut off."""
    import numpy as np

    matrix = change.reshape(change.shape[0], -1) if change.ndim else change.reshape(1, 1)
    wide = matrix.shape[0] <= matrix.shape[1]
    size = float(np.abs(matrix).max()) if matrix.size else 0.0
    if not size:
        return _trimmed(np.zeros((matrix.shape[0], 1)), np.zeros(0), np.zeros((matrix.shape[1], 1)), 0.0)
    scaled = matrix / size
    squares, vectors = np.linalg.eigh(scaled @ scaled.T if wide else scaled.T @ scaled)
    values = np.sqrt(np.maximum(squares[::-1], 0.0))
    near = vectors[:, -1:]
    far = (scaled.T if wide else scaled) @ near / values[0]
    left, right = (near, far) if wide else (far, near)
    return _trimmed(left, size * values, right, size * float(values[0]) * _EPSILON_32 * max(matrix.shape))


def _trimmed(
    left: NDArray[np.float64], values: NDArray[np.float64], right: NDArray[np.float64], floor: float
) -> _Svd:
    import numpy as np

    kept = values[values > floor]
    if not kept.size:
        return np.zeros(left.shape[0]), kept, np.zeros(right.shape[0])
    sign = np.sign(left[np.argmax(np.abs(left[:, 0])), 0])
    return sign * left[:, 0], kept, sign * right[:, 0]
