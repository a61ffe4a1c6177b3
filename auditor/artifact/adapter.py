"""What every dialect is normalised to: which module of the base changes, and by what.

A module path is the path of a module in the diffusers classes, relative to its component:
``down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q`` in ``unet``, and
``text_model.encoder.layers.0.self_attn.q_proj`` in ``text_encoder``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from auditor.artifact.problems import Problem
from auditor.artifact.tensors import Tensor
from auditor.errors import IncompatibleArtifact, RefusedArtifact

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor.artifact.claims import Claims
    from auditor.artifact.family import FamilyMatch

__all__ = ["COMPONENTS", "Adapter", "Delta", "Dense", "LowRank", "Overwrite", "tensors_in"]

COMPONENTS = ("unet", "text_encoder", "text_encoder_2", "text_encoder_3", "transformer")

# A product of two slim factors can ask for more memory than any real layer has (the largest of SDXL holds 30
# million).
_LARGEST_DENSE = 1 << 28


@dataclass(frozen=True)
class LowRank:
    """A low-rank change of a weight, ``scale * up @ [mid] @ down`` (LoRA, arXiv:2106.09685).

    Attributes:
        down: (r, in) or (r, in, kh, kw); with ``mid`` (r, in) or (r, in, 1, 1).
        up: (out, r) or (out, r, 1, 1).
        alpha: numerator of the scale; None means a scale of 1.
        mid: (r, r, kh, kw), the core of a Tucker decomposition (LoCon).
        magnitude: the norms that DoRA (arXiv:2402.09353) gives the adapted weight, any shape of that many
            elements.
        magnitude_axis: ``out`` for one norm an output (PEFT), ``in`` for one an input (LyCORIS, by default).
        rank_stabilised: the scale is alpha / sqrt(r) (arXiv:2312.03732) in place of alpha / r.
    """

    down: Tensor
    up: Tensor
    alpha: float | None = None
    mid: Tensor | None = None
    magnitude: Tensor | None = None
    magnitude_axis: Literal["out", "in"] = "out"
    rank_stabilised: bool = False

    @property
    def rank(self) -> int:
        """The inner dimension as stored; :mod:`auditor.artifact.features` measures the numerical rank."""
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        """What the product of the factors is multiplied by."""
        if self.alpha is None:
            return 1.0
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight it changes, (out, in) or (out, in, kh, kw)."""
        kernel = self.down.shape[2:] if self.mid is None else self.mid.shape[2:]
        return (self.up.shape[0], self.down.shape[1], *kernel)

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
        """The scaled product of the factors in the shape of the weight, float32; without a DoRA magnitude.

        Raises:
            RefusedArtifact: the product would be larger than any layer of a real model.
        """
        if math.prod(self.shape) > _LARGEST_DENSE:
            raise RefusedArtifact(
                f"a change of shape {self.shape} is larger than any real layer; not multiplied out"
            )
        import numpy as np

        left, right = self.factors()
        return (self.scale * (left @ right)).reshape(self.shape).astype(np.float32)

    def delta(self, base: NDArray[Any] | None = None) -> NDArray[np.float32]:
        """The change of the weight, float32, in the shape of the weight.

        Args:
            base: the weight of the base in the same shape; only DoRA needs it.

        Raises:
            IncompatibleArtifact: a DoRA change was asked for without a base weight, or with one of another
            shape. RefusedArtifact: see :meth:`product`.
        """
        product = self.product()
        if self.magnitude is None:
            return product
        if base is None:
            raise IncompatibleArtifact(
                "a DoRA change depends on the base weight; give the base it was trained on"
            )
        return _dora(product, self.magnitude.array(), self.magnitude_axis, _same_shape(base, self.shape))


@dataclass(frozen=True)
class Dense:
    """A change stored in full, in the shape of the weight."""

    value: Tensor

    @property
    def rank(self) -> int | None:
        """None: nothing bounds the rank below the shape."""
        return None

    @property
    def scale(self) -> float:
        """Always 1."""
        return 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight it changes."""
        return self.value.shape

    def delta(self, base: NDArray[Any] | None = None) -> NDArray[np.float32]:
        """The change of the weight, float32; ``base`` is not needed."""
        return self.value.array()


@dataclass(frozen=True)
class Overwrite:
    """New parameters for a module, in place of a change to the old ones.

    Attributes:
        value: the new ``weight``, or None if it stays.
        bias: the new ``bias``, or None if it stays.
    """

    value: Tensor | None = None
    bias: Tensor | None = None

    @property
    def rank(self) -> int | None:
        """None: nothing bounds the rank below the shape."""
        return None

    @property
    def scale(self) -> float:
        """Always 1."""
        return 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the new weight, or of the new bias where only that changes."""
        tensor = self.value if self.value is not None else self.bias
        return () if tensor is None else tensor.shape

    def delta(self, base: NDArray[Any] | None = None) -> NDArray[np.float32]:
        """The change of ``weight`` (or of ``bias`` where only that is replaced), float32.

        Raises:
            IncompatibleArtifact: no base value was given, or one of another shape.
        """
        import numpy as np

        tensor = self.value if self.value is not None else self.bias
        if tensor is None or base is None:
            raise IncompatibleArtifact(
                "the change made by an overwritten weight depends on the base; give the base"
            )
        return (tensor.array() - _same_shape(base, tensor.shape)).astype(np.float32)


Delta: TypeAlias = LowRank | Dense | Overwrite


@dataclass(frozen=True)
class Adapter:
    """One adapter, whatever dialect it was written in.

    Attributes:
        dialect: the naming it was stored in, ``kohya`` for example.
        family: ``sd1``, ``sd2``, ``sdxl``, ``embedded``, ``given`` (fits the base that was named) or
            ``other``.
        family_match: the evidence, and other families that the same shapes would fit.
        components: component to module path to change.
        embeddings: token to text encoder to vectors, (dim,) or (n, dim).
        unmatched: keys that were not understood; while there is one, coverage is incomplete.
        claims: what header, card and config say of it.
        problems: oddities met while reading.
    """

    dialect: str
    family: str
    family_match: FamilyMatch
    components: Mapping[str, Mapping[str, Delta]]
    embeddings: Mapping[str, Mapping[str, Tensor]]
    unmatched: tuple[str, ...]
    claims: Claims
    problems: tuple[Problem, ...]

    @property
    def family_evidence(self) -> tuple[str, ...]:
        """Sentences that say why the family was concluded."""
        return self.family_match.evidence

    @property
    def module_count(self) -> int:
        """How many modules change, over all components."""
        return sum(len(modules) for modules in self.components.values())

    @property
    def ranks(self) -> dict[int, int]:
        """Stored rank to the number of modules that have it, low-rank changes only."""
        return dict(sorted(Counter(d.rank for _, _, d in self.modules() if isinstance(d, LowRank)).items()))

    @property
    def rank(self) -> int | None:
        """The rank most modules have, or None without low-rank changes."""
        return max(self.ranks, key=lambda rank: (self.ranks[rank], rank)) if self.ranks else None

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The stored types of all tensors that carry a change or a vector, sorted."""
        found = {tensor.dtype for _, _, delta in self.modules() for tensor in tensors_in(delta)}
        found |= {tensor.dtype for encoders in self.embeddings.values() for tensor in encoders.values()}
        return tuple(sorted(found))

    def modules(self) -> Iterator[tuple[str, str, Delta]]:
        """Yields (component, module path, change) in a fixed order."""
        for component in sorted(self.components):
            for path in sorted(self.components[component]):
                yield component, path, self.components[component][path]


def tensors_in(delta: Delta) -> tuple[Tensor, ...]:
    """The tensors that a change is made of."""
    parts: tuple[Tensor | None, ...] = (delta.value,) if isinstance(delta, Dense) else ()
    if isinstance(delta, LowRank):
        parts = (delta.down, delta.up, delta.mid, delta.magnitude)
    elif isinstance(delta, Overwrite):
        parts = (delta.value, delta.bias)
    return tuple(part for part in parts if part is not None)


def _same_shape(base: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float64]:
    import numpy as np

    if tuple(base.shape) != shape:
        raise IncompatibleArtifact(
            f"the adapter changes a weight of shape {shape} but the base has {tuple(base.shape)}"
        )
    return np.asarray(base, dtype=np.float64)


def _dora(
    product: NDArray[np.float32], magnitude: NDArray[np.float32], axis: str, base: NDArray[np.float64]
) -> NDArray[np.float32]:
    import numpy as np

    kept = 0 if axis == "out" else 1
    if magnitude.size != base.shape[kept]:
        raise IncompatibleArtifact(
            f"a DoRA magnitude of shape {magnitude.shape} does not fit axis {kept} of a weight {base.shape}"
        )
    merged = base + product
    others = tuple(a for a in range(base.ndim) if a != kept)
    norm = np.sqrt(np.sum(merged**2, axis=others, keepdims=True))
    target = magnitude.astype(np.float64).reshape(norm.shape)
    change = merged * (target / np.maximum(norm, np.finfo(np.float32).tiny)) - base
    return np.asarray(change, dtype=np.float32)
