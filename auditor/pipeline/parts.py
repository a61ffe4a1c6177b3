"""From an identified artifact to the parameters it changes in one base, every key accounted for.

Works on weights alone: what each parameter would become is computed once and swapped in and out by
pointer (:mod:`auditor.pipeline.subject`), so every dialect takes the same path and the base comes back bit
for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from auditor.artifact.adapter import Adapter, Delta, Overwrite
from auditor.artifact.identify import Identified
from auditor.artifact.tensors import Tensor as StoredTensor
from auditor.errors import IncompatibleArtifact
from auditor.pipeline.components import Components
from auditor.text import inert

__all__ = ["Changes", "ModuleChange", "changes_of"]

_TEXT_PREFIX = "text_model."


@dataclass(frozen=True)
class ModuleChange:
    """One parameter of the base and what it becomes.

    Attributes:
        component: ``unet``, ``text_encoder``...
        module: path of the module in the base as it is loaded.
        parameter: ``weight`` or ``bias``.
        tuned: the new value, in the base's shape, type and place.
        norm: Frobenius norm of the change, float64 sum.
    """

    component: str
    module: str
    parameter: str
    tuned: Tensor
    norm: float


@dataclass
class Changes:
    """What all parts together change.

    Attributes:
        modules: (component, module, parameter) to its change.
        embeddings: token to text encoder to vectors (n, dim).
        keys_total: modules and tokens that the artifacts hold, understood or not.
        keys_applied: those that found their place.
        unmatched: names of the others.
    """

    modules: dict[tuple[str, str, str], ModuleChange] = field(default_factory=dict)
    embeddings: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    keys_total: int = 0
    keys_applied: int = 0
    unmatched: list[str] = field(default_factory=list)

    @property
    def components(self) -> frozenset[str]:
        """Which components of the base change."""
        return frozenset(change.component for change in self.modules.values())

    @property
    def norms(self) -> dict[str, float]:
        """``component.module`` to the norm of its change."""
        return {f"{c}.{m}" + ("" if p == "weight" else f".{p}"): change.norm for (c, m, p), change in sorted(self.modules.items())}


def changes_of(parts: Sequence[Identified], components: Components) -> Changes:
    """Resolves every part against the base; a part that does not fit leaves its keys in ``unmatched``."""
    changes = Changes()
    for part in parts:
        if part.adapter is not None:
            _add_adapter(part.adapter, components, changes)
    return changes


def _add_adapter(adapter: Adapter, components: Components, changes: Changes) -> None:
    for component, path, delta in adapter.modules():
        changes.keys_total += 1
        applied = _apply(component, path, delta, components, changes)
        if applied:
            changes.keys_applied += 1
        else:
            changes.unmatched.append(f"{component}.{path}")
    for token, encoders in adapter.embeddings.items():
        for encoder, stored in encoders.items():
            changes.keys_total += 1
            if _embed(token, encoder, stored, components, changes):
                changes.keys_applied += 1
            else:
                changes.unmatched.append(f"{encoder} token {token}")
    changes.keys_total += len(adapter.unmatched)
    changes.unmatched.extend(adapter.unmatched)


def _apply(component: str, path: str, delta: Delta, components: Components, changes: Changes) -> bool:
    model = components.modules.get(component)
    module = _find(model, path) if model is not None else None
    if module is None:
        return False
    name, found = module
    new: list[ModuleChange] = []
    for parameter, target, value in _values(delta, found, changes, (component, name)):
        if value is None or value.shape != target.shape:
            return False
        norm = float((value.double() - target.double()).norm())
        new.append(ModuleChange(component, name, parameter, value.to(target), norm))
    if not new:
        return False
    for change in new:
        key = (change.component, change.module, change.parameter)
        changes.modules[key] = change
    return True


def _values(
    delta: Delta, module: torch.nn.Module, changes: Changes, place: tuple[str, str]
) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """Yields (parameter name, base value, tuned value or None where it does not fit).

    Parts stack: a module that an earlier part changed is changed further.
    """
    if isinstance(delta, Overwrite):
        for parameter, stored in (("weight", delta.value), ("bias", delta.bias)):
            if stored is not None:
                target = getattr(module, parameter, None)
                if target is None:
                    return
                yield parameter, target, torch.from_numpy(stored.array())
        return
    target = getattr(module, "weight", None)
    if not isinstance(target, Tensor):
        return
    earlier = changes.modules.get((*place, "weight"))
    start = (earlier.tuned if earlier is not None else target).detach().float().cpu()
    if _sized(delta.shape) != _sized(tuple(target.shape)):
        yield "weight", target, None
        return
    try:
        added = torch.from_numpy(delta.delta(start.numpy().reshape(delta.shape)))
    except IncompatibleArtifact:
        yield "weight", target, None
        return
    yield "weight", target, (start + added.reshape(start.shape))


def _sized(shape: tuple[int, ...]) -> tuple[int, ...]:
    # A linear projection may be stored as a 1x1 convolution and the other way round.
    return shape[:2] if len(shape) == 4 and shape[2:] == (1, 1) else shape


def _find(model: torch.nn.Module, path: str) -> tuple[str, torch.nn.Module] | None:
    for name in (path, path.removeprefix(_TEXT_PREFIX), _TEXT_PREFIX + path):
        try:
            return name, model.get_submodule(name)
        except AttributeError:
            continue
    return None


def _embed(token: str, encoder: str, stored: StoredTensor, components: Components, changes: Changes) -> bool:
    model = components.modules.get(encoder)
    if model is None:
        return False
    width = int(model.config.hidden_size)  # type: ignore[union-attr, arg-type]
    vectors = torch.from_numpy(stored.array()).float()
    vectors = vectors.reshape(1, -1) if vectors.ndim == 1 else vectors
    if vectors.ndim != 2 or vectors.shape[1] != width:
        return False
    changes.embeddings.setdefault(inert(token, 64), {})[encoder] = vectors
    return True
