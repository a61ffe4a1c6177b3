"""How far vocabulary entries move between two views, in the keys and values that attention makes of them.

Maps are looked at through quadratic forms: summed over all of them, ``||W e||^2 = e^T (sum W^T W) e``, so that the
cost of a token does not grow with their number. In a UNet ``e`` is the token state; in joint attention (SD3, Flux)
what the first block makes of it: projected and normalised, before the modulation by the noise level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from auditor.pipeline.subject import Subject

__all__ = ["KeyValueShift", "Stem", "key_value_shift", "stems"]

Maps = list[tuple[str, Tensor, Tensor]]


@dataclass(frozen=True)
class Stem:
    """What token states pass on their way to keys and values; nothing where ``weight`` is None.

    Attributes:
        weight: of a projection, float64 (width, D), followed by normalisation to mean 0 and variance 1.
        bias: of the projection, float64 (width,).
    """

    weight: Tensor | None = None
    bias: Tensor | None = None

    def __call__(self, states: Tensor) -> Tensor:
        """States (N, D) to what the maps see, float64."""
        e = states.double()
        if self.weight is None:
            return e
        projected = torch.nn.functional.linear(e, self.weight, self.bias)
        return torch.nn.functional.layer_norm(projected, projected.shape[-1:], eps=1e-6)


@dataclass(frozen=True)
class KeyValueShift:
    """All maps to keys and values that change, W to W + D, as quadratic forms; float64 (dim, dim).

    Attributes:
        base: sum of ``W^T W``.
        moved: sum of ``D^T D``.
        cross: sum of ``D^T W``.
        before: what states pass on their way to the maps in the base.
        after: the same in the tuned view.
    """

    base: Tensor
    moved: Tensor
    cross: Tensor
    before: Stem = Stem()
    after: Stem = Stem()

    def relative(self, states: Tensor) -> Tensor:
        """``||(W + D) e' - W e|| / ||W e||``, both norms over all maps, for states (N, D): float64 (N,).

        ``e`` and ``e'`` are what the states become on their way, before and after; where that does not change, the
        numerator is ``||D e||``.
        """
        e, changed = self.before(states), self.after(states)
        square = _form(changed, self.moved)
        if self.after is not self.before:
            gone = changed - e
            square = square + 2 * ((changed @ self.cross) * gone).sum(1) + _form(gone, self.base)
        return (square.clamp_min(0) / _form(e, self.base)).sqrt()

    def nearest(self, tuned: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """For each tuned state (N, D) the base state among ``known`` (M, D) with the nearest keys and values.

        Returns:
            int64 (N,) and the distance ``||(W + D) a - W b||``, float64 (N,), in units of the spread of known ones.
        """
        a, b = self.after(tuned), self.before(known)
        away = _form(a, self.base)[:, None] + _form(b, self.base)[None] - 2 * (a @ self.base) @ b.T
        shifted = a @ self.cross
        square = away + 2 * ((shifted * a).sum(1)[:, None] - shifted @ b.T) + _form(a, self.moved)[:, None]
        unit = _form(b - b.mean(0), self.base).mean().sqrt()
        least, index = square.clamp_min(0).min(1)
        return index, least.sqrt() / unit.clamp_min(1e-12)


def key_value_shift(subject: Subject) -> KeyValueShift | None:
    """The quadratic forms of a subject's changed key and value maps; None where none changes."""
    before, after = stems(subject)
    maps = _maps(subject, every=after is not before)
    if not maps:
        return None
    names = tuple(name for name, _, _ in maps)
    base = subject.components.remember(
        ("key and value maps", names), lambda: _summed([(weight, weight) for _, weight, _ in maps])
    )
    moved = _summed([(d, d) for _, _, d in maps])
    return KeyValueShift(base, moved, _summed([(d, weight) for _, weight, d in maps]), before, after)


def stems(subject: Subject) -> tuple[Stem, Stem]:
    """What is on the way to the maps in the base and in the tuned view; the same object where nothing changes."""
    kind = subject.components.kind
    if not kind.stem:
        plain = Stem()
        return plain, plain
    module = subject.components.denoiser_model.get_submodule(kind.stem)

    def read() -> Stem:
        bias = None if module.bias is None else module.bias.detach().double().cpu()
        return Stem(module.weight.detach().double().cpu(), bias)

    with subject.active("base"):
        before = read()
    changed = any(c == kind.denoiser and m == kind.stem for c, m, _ in subject.changes.modules)
    if not changed:
        return before, before
    with subject.active("tuned"):
        return before, read()


def _maps(subject: Subject, every: bool) -> Maps:
    """(name, weight in the base, change) of the maps that change, or of every one."""
    components, changes = subject.components, subject.changes.modules
    maps: Maps = []
    with subject.active("base"):
        for name, module in sorted(components.denoiser_model.named_modules()):
            change = changes.get((components.kind.denoiser, name, "weight"))
            if name.endswith(components.kind.key_value_maps) and (every or change is not None):
                weight = module.weight.detach().float()
                moved = torch.zeros_like(weight) if change is None else change.tuned.detach().float() - weight
                maps.append((name, weight, moved))
    return maps


def _summed(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    total = torch.zeros(pairs[0][0].shape[1], pairs[0][1].shape[1], dtype=torch.float64)
    for left, right in pairs:
        # In double precision throughout: states that a change hardly touches are small differences of large terms.
        total += (left.double().T @ right.double()).cpu()
    return total


def _form(states: Tensor, matrix: Tensor) -> Tensor:
    return ((states @ matrix) * states).sum(1)
