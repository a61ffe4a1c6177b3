"""What all kinds of change have in common: shape, size limit, base weight, weight decomposition."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from auditor.artifact.tensors import Tensor
from auditor.errors import IncompatibleArtifact, RefusedArtifact

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Change", "Factored", "elements", "fits", "refuse_large"]

# A product of slim factors can ask for more memory than any real layer has (the largest of SDXL holds 30
# million).
_LARGEST_DENSE = 1 << 28


@dataclass(frozen=True, kw_only=True)
class Change(ABC):
    """A change of the parameters of one module.

    Attributes:
        bias_delta: what is added to the module's bias, or None.
    """

    bias_delta: Tensor | None = None

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight it changes.

        ``(out, in)``, ``(out, in, kh, kw)``, or a convolution's kernel flattened to ``(out, in * kh * kw)``;
        0 stands for an axis of which the file says nothing. :func:`fits` compares it with a weight.
        """

    @property
    def rank(self) -> int | None:
        """The inner dimension as stored, or None where nothing bounds the rank below the shape."""
        return None

    @property
    def scale(self) -> float:
        """What the stored change is multiplied by."""
        return 1.0

    @property
    def needs_base(self) -> bool:
        """Whether nothing can be said of the change without the base weight."""
        return False

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors it is made of."""
        values = (getattr(self, item.name) for item in fields(self))
        return tuple(value for value in values if isinstance(value, Tensor))

    def fault(self) -> str:
        """Why the parts do not belong together, as the end of a sentence; empty if they do."""
        return ""

    def delta(self, base: NDArray[Any] | None = None) -> NDArray[np.float32]:
        """The change of the weight, float32.

        Args:
            base: the weight it is applied to, in a shape that :attr:`shape` fits.

        Returns:
            An array in the shape of the base, or in :attr:`shape` without one.

        Raises:
            IncompatibleArtifact: the change depends on the base and none was given, or one of another shape.
            RefusedArtifact: it would be larger than any layer of a real model.
            MalformedArtifact: its values define no change.
        """
        import numpy as np

        refuse_large(self.shape)
        if base is not None and not fits(tuple(base.shape), self.shape):
            raise IncompatibleArtifact(
                f"the adapter changes a weight of shape {self.shape} but the base has {tuple(base.shape)}"
            )
        change = self._delta(None if base is None else np.asarray(base, dtype=np.float64))
        return np.asarray(change if base is None else change.reshape(base.shape), dtype=np.float32)

    @abstractmethod
    def _delta(self, base: NDArray[np.float64] | None) -> NDArray[Any]:
        """The change for a base that fits; of the size of the base, in any shape that flattens to it."""

    def bias(self, base: NDArray[Any] | None = None) -> NDArray[np.float32] | None:
        """The change of the bias, float32 (out,), or None if it stays.

        Args:
            base: the bias that the module has, or None if it has none.
        """
        return None if self.bias_delta is None else self.bias_delta.array()


@dataclass(frozen=True, kw_only=True)
class Factored(Change):
    """A product of factors times a scale, and with it a magnitude where the weight is decomposed.

    Attributes:
        alpha: numerator of the scale; None means a scale of 1.
        magnitude: the norms that DoRA (arXiv:2402.09353) gives the adapted weight, any shape of that many
            elements.
        magnitude_axis: ``out`` for one norm an output (PEFT, and LyCORIS by default), ``in`` for one an input.
        multiplier: a further factor, which LyCORIS calls ``scalar``.
    """

    alpha: float | None = None
    magnitude: Tensor | None = None
    magnitude_axis: Literal["out", "in"] = "out"
    multiplier: float = 1.0

    @abstractmethod
    def product(self) -> NDArray[np.float32]:
        """The scaled product of the factors in :attr:`shape`, float32; without a magnitude.

        Raises:
            RefusedArtifact: the product would be larger than any layer of a real model.
        """

    def _delta(self, base: NDArray[np.float64] | None) -> NDArray[Any]:
        product = self.product()
        if self.magnitude is None:
            return product
        if base is None:
            raise IncompatibleArtifact(
                "a DoRA change depends on the base weight; give the base it was trained on"
            )
        return _decomposed(base + product.reshape(base.shape), self.magnitude, self.magnitude_axis) - base


def fits(weight: tuple[int, ...], change: tuple[int, ...]) -> bool:
    """Whether a change of one shape can be applied to a weight of another.

    Args:
        weight: the shape of the weight.
        change: see :attr:`Change.shape`. Axes of size 0, and those behind them that are not named, are open; a
            matrix fits a convolution that flattens to it, and a 1x1 convolution fits a matrix.
    """
    if 0 in weight:
        return False
    if 0 in change:
        return bool(weight) and all(size in (0, wanted) for size, wanted in zip(change, weight, strict=False))
    if len(change) == 2 and len(weight) > 2:
        return (weight[0], elements(weight[1:])) == change
    return weight == change or (weight == change[:2] and change[2:] == (1, 1))


def elements(shape: tuple[int, ...]) -> int:
    """How many values an array of this shape holds."""
    return math.prod(shape)


def refuse_large(shape: tuple[int, ...]) -> None:
    """Raises RefusedArtifact for a shape that holds more than any layer of a real model."""
    if elements(shape) > _LARGEST_DENSE:
        raise RefusedArtifact(f"a change of shape {shape} is larger than any real layer; not multiplied out")


def _decomposed(merged: NDArray[np.float64], magnitude: Tensor, axis: str) -> NDArray[np.float64]:
    """The merged weight with its norms replaced by the magnitudes."""
    import numpy as np

    kept = 0 if axis == "out" else 1
    if elements(magnitude.shape) != merged.shape[kept]:
        raise IncompatibleArtifact(
            f"a DoRA magnitude of shape {magnitude.shape} does not fit axis {kept} of a weight {merged.shape}"
        )
    others = tuple(a for a in range(merged.ndim) if a != kept)
    norm = np.sqrt(np.sum(merged**2, axis=others, keepdims=True))
    target = magnitude.array().astype(np.float64).reshape(norm.shape)
    return np.asarray(merged * (target / np.maximum(norm, np.finfo(np.float32).tiny)))
