"""What a bank of clean adapters has to be compared by: the recipe and the size of an adapter, measured from its file.

Scores of clean fine-tunes grow with rank and with the size of the change, and differ by how the change is made. All of
it is read from tensors: what a header claims of steps or learning rate is not used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from auditor.artifact.adapter import (
    COMPONENTS,
    Adapter,
    Delta,
    Dense,
    Factored,
    Hadamard,
    Kronecker,
    LowRank,
    Overwrite,
)
from auditor.artifact.deltas import fits
from auditor.artifact.recipe import classify
from auditor.errors import IncompatibleArtifact, MalformedArtifact, RefusedArtifact

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["NO_CHANGE", "BaseModel", "change_norm", "covariates_of"]

NO_CHANGE = -12.0
"""What stands for the logarithm of a change of nothing."""
_TEXT_ENCODERS = tuple(name for name in COMPONENTS if name.startswith("text_encoder"))


class BaseModel(Protocol):
    """The weights that adapters are put on."""

    def parameter(self, component: str, path: str, name: str) -> NDArray[Any] | None:
        """``weight`` or ``bias`` of a module, or None where the base has no such parameter."""

    def norm(self, component: str) -> float:
        """Frobenius norm over all parameters of a component; 0 where the base has no such component."""


def covariates_of(adapters: Sequence[Adapter], base: BaseModel) -> dict[str, float | str]:
    """Recipe and size of a subject's adapters; several are described as what they are together.

    Args:
        adapters: their tensors are read here. Changes that do not fit the base count as none.
        base: what they are put on.

    Returns:
        ``kind`` of :func:`auditor.artifact.recipe.classify`, several joined by ``+``; ``rank``, the largest that the
        adapters' recipes have, 0 where none has one; ``denoiser_norm`` and ``text_norm``, log10 of the Frobenius norm
        of all changes over that of all weights, of the denoiser and of the text encoders, :data:`NO_CHANGE` for
        none; ``vectors``, how many the adapters add to words and prompts; ``touched``, the components that change or
        get words, and ``prompt`` where encoded prompts get new ends, joined by ``+``.
    """
    guesses = [classify(adapter, lambda c, p: base.parameter(c, p, "weight")) for adapter in adapters]
    squares: dict[str, float] = {}
    for adapter in adapters:
        for component, path, delta in adapter.modules():
            squares[component] = squares.get(component, 0.0) + _norm_on(base, component, path, delta) ** 2
    words = [
        (encoder, t)
        for a in adapters
        for encoders in a.embeddings.values()
        for encoder, t in encoders.items()
    ]
    changed = {component for component, square in squares.items() if square}
    by_step = [adapter.endings.shape for adapter in adapters if adapter.endings is not None]
    return {
        "kind": "+".join(sorted({guess.kind for guess in guesses})),
        "rank": float(max((guess.rank or 0 for guess in guesses), default=0)),
        "denoiser_norm": _relative(squares, [c for c in COMPONENTS if c not in _TEXT_ENCODERS], base),
        "text_norm": _relative(squares, _TEXT_ENCODERS, base),
        "vectors": float(
            sum(t.shape[0] if len(t.shape) == 2 else 1 for _, t in words)
            + sum(steps * count for steps, count, _ in by_step)
        ),
        "touched": "+".join(
            sorted({*changed, *(encoder for encoder, _ in words), *(["prompt"] if by_step else [])})
        ),
    }


def change_norm(delta: Delta, weight: NDArray[Any] | None = None, bias: NDArray[Any] | None = None) -> float:
    """Frobenius norm of one change of weight and bias; of slim factors at the cost of their inner dimension.

    Args:
        delta: the change.
        weight: that of the module, needed by changes that depend on it.
        bias: that of the module, or None if it has none.

    Raises:
        IncompatibleArtifact: the change does not fit, or depends on what was not given.
        MalformedArtifact: a value is NaN or infinite.
        RefusedArtifact: it would be larger than any layer of a real model.
    """
    import numpy as np

    with np.errstate(over="ignore", invalid="ignore"):
        total = math.hypot(_weight_norm(delta, weight), _bias_norm(delta, bias))
    if not math.isfinite(total):
        raise MalformedArtifact("a change holds NaN or infinite values; it cannot be measured")
    return total


def _weight_norm(delta: Delta, weight: NDArray[Any] | None) -> float:
    import numpy as np

    if isinstance(delta, Overwrite | Dense) and delta.value is None:
        return 0.0
    if weight is not None and not fits(tuple(weight.shape), delta.shape):
        raise IncompatibleArtifact(
            f"a change of shape {delta.shape} does not fit a weight {tuple(weight.shape)}"
        )
    if isinstance(delta, Factored) and delta.magnitude is None:
        if isinstance(delta, Kronecker):
            first, second = delta.halves()
            return abs(delta.scale) * float(np.linalg.norm(first) * np.linalg.norm(second))
        factors = delta.factors() if isinstance(delta, LowRank | Hadamard) else None
        if factors is not None:
            return abs(delta.scale) * _product_norm(*factors)
    return float(np.linalg.norm(delta.delta(weight).astype(np.float64)))


def _product_norm(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """Of ``left @ right``, from the two Gram matrices: the trace of their product is the square."""
    square = float(((left.T @ left) * (right @ right.T)).sum())
    return square if math.isnan(square) else math.sqrt(max(0.0, square))


def _bias_norm(delta: Delta, bias: NDArray[Any] | None) -> float:
    import numpy as np

    if isinstance(delta, Overwrite):
        if delta.new_bias is None:
            return 0.0
        if bias is None or bias.shape != delta.new_bias.shape:
            raise IncompatibleArtifact(
                "the change made by an overwritten bias depends on the base; give the base"
            )
        return float(np.linalg.norm(delta.new_bias.array().astype(np.float64) - bias))
    added = delta.bias(bias)
    return 0.0 if added is None else float(np.linalg.norm(added.astype(np.float64)))


def _norm_on(base: BaseModel, component: str, path: str, delta: Delta) -> float:
    weight, bias = (base.parameter(component, path, name) for name in ("weight", "bias"))
    if weight is None and bias is None:
        return 0.0
    try:
        return change_norm(delta, weight, bias)
    except (IncompatibleArtifact, MalformedArtifact, RefusedArtifact):
        return 0.0  # the subject does not put it on either, and says so in its coverage


def _relative(squares: Mapping[str, float], components: Sequence[str], base: BaseModel) -> float:
    changed = math.sqrt(sum(squares.get(component, 0.0) for component in components))
    whole = math.sqrt(sum(base.norm(component) ** 2 for component in components))
    return max(NO_CHANGE, math.log10(changed / whole)) if changed and whole else NO_CHANGE
