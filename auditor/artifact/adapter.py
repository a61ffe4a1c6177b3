"""What every dialect is normalised to: which module of the base changes, and by what.

A module path is the path of a module in the diffusers classes, relative to its component:
``down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q`` in ``unet``, and
``text_model.encoder.layers.0.self_attn.q_proj`` in ``text_encoder``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from auditor.artifact.deltas import (
    Change,
    Dense,
    Factored,
    GeneralisedLowRank,
    Hadamard,
    Kronecker,
    LowRank,
    Overwrite,
    Rotation,
    Scaled,
)
from auditor.artifact.problems import Problem
from auditor.artifact.tensors import Tensor

if TYPE_CHECKING:
    from auditor.artifact.claims import Claims
    from auditor.artifact.family import FamilyMatch

__all__ = [
    "COMPONENTS",
    "Adapter",
    "Delta",
    "Dense",
    "Factored",
    "GeneralisedLowRank",
    "Hadamard",
    "Kronecker",
    "LowRank",
    "Overwrite",
    "Rotation",
    "Scaled",
    "tensors_in",
]

COMPONENTS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")

Delta: TypeAlias = Change


@dataclass(frozen=True)
class Adapter:
    """One adapter, whatever dialect it was written in.

    Attributes:
        dialect: the naming it was stored in, ``kohya`` for example.
        family: ``sd1``, ``sd2``, ``sdxl``, ``sd3``, ``flux``, ``embedded``, ``given`` (fits the base that was
            named) or ``other``.
        family_match: the evidence, and other families that the same shapes would fit.
        components: component to module path to change. A fused projection is one change for each diffusers
            module it comes apart into, so a stored key may serve several of them; whatever is counted over
            changes counts modules, and what is counted over ``unmatched`` counts keys.
        embeddings: token to text encoder to vectors, (dim,) or (n, dim).
        unmatched: keys that were not understood; while there is one, coverage is incomplete.
        claims: what header, card and config say of it.
        problems: oddities met while reading.
        endings: what stands in for the last n states of every encoded prompt, (steps, n, dim), the first for the
            noisiest of equally many parts of the schedule; None where prompts are encoded as ever.
    """

    dialect: str
    family: str
    family_match: FamilyMatch
    components: Mapping[str, Mapping[str, Delta]]
    embeddings: Mapping[str, Mapping[str, Tensor]]
    unmatched: tuple[str, ...]
    claims: Claims
    problems: tuple[Problem, ...]
    endings: Tensor | None = None

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
        """Stored rank to the number of modules that have it, changes made of slim factors only."""
        found = (delta.rank for _, _, delta in self.modules())
        return dict(sorted(Counter(rank for rank in found if rank is not None).items()))

    @property
    def rank(self) -> int | None:
        """The rank most modules have, or None where no change is made of slim factors."""
        return max(self.ranks, key=lambda rank: (self.ranks[rank], rank)) if self.ranks else None

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The stored types of all tensors that carry a change or a vector, sorted."""
        found = {tensor.dtype for _, _, delta in self.modules() for tensor in tensors_in(delta)}
        found |= {tensor.dtype for encoders in self.embeddings.values() for tensor in encoders.values()}
        found |= {self.endings.dtype} if self.endings is not None else set()
        return tuple(sorted(found))

    def modules(self) -> Iterator[tuple[str, str, Delta]]:
        """Yields (component, module path, change) in a fixed order."""
        for component in sorted(self.components):
            for path in sorted(self.components[component]):
                yield component, path, self.components[component][path]


def tensors_in(delta: Delta) -> tuple[Tensor, ...]:
    """The tensors that a change is made of."""
    return delta.tensors
