"""From an identified artifact to the parameters it changes in one base, every key accounted for.

Works on weights alone: what each parameter would become is computed once and swapped in and out by
pointer (:mod:`auditor.pipeline.subject`), so every dialect takes the same path and the base comes back bit
for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from auditor.artifact.adapter import Adapter, Delta, Dense, Overwrite
from auditor.artifact.identify import Identified
from auditor.artifact.tensors import Tensor as StoredTensor
from auditor.errors import IncompatibleArtifact
from auditor.pipeline.components import Components
from auditor.pipeline.conditioning import encode_prompts
from auditor.pipeline.loading import looks_ahead
from auditor.text import inert

__all__ = ["Changes", "ModuleChange", "changes_of", "find_module"]

_TEXT_PREFIX = "text_model."


@dataclass(frozen=True)
class ModuleChange:
    """One parameter of the base and what it becomes.

    Attributes:
        component: ``unet``, ``transformer``, ``text_encoder``...
        module: path of the module in the base as it is loaded.
        parameter: ``weight`` or ``bias``.
        tuned: the new value, in the base's shape, type and place.
        norm: Frobenius norm of the change before it is rounded to the base's type, float64 sum.
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
        endings: what every prompt's encoding ends in, (steps, n, dim), see :class:`Adapter`.
        keys_total: modules and tokens that the artifacts hold, understood or not.
        keys_applied: those that found their place.
        unmatched: names of the others.
    """

    modules: dict[tuple[str, str, str], ModuleChange] = field(default_factory=dict)
    embeddings: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    endings: Tensor | None = None
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
        return {
            f"{c}.{m}" + ("" if p == "weight" else f".{p}"): change.norm
            for (c, m, p), change in sorted(self.modules.items())
        }

    def count(self, name: str, applied: bool) -> None:
        """Accounts for one key of an artifact."""
        self.keys_total += 1
        if applied:
            self.keys_applied += 1
        else:
            self.unmatched.append(name)


def changes_of(parts: Sequence[Identified], components: Components) -> Changes:
    """Resolves every part against the base; a part that does not fit leaves its keys in ``unmatched``."""
    changes = Changes()
    for part in parts:
        if part.adapter is not None:
            _add_adapter(part.adapter, components, changes)
    return changes


def _add_adapter(adapter: Adapter, components: Components, changes: Changes) -> None:
    for component, path, delta in adapter.modules():
        changes.count(f"{component}.{path}", _apply(component, path, delta, components, changes))
    for token, encoders in adapter.embeddings.items():
        for encoder, stored in encoders.items():
            refusal = _embed(token, encoder, stored, components, changes)
            changes.count(f"{encoder} token {token} ({refusal})", not refusal)
    if adapter.endings is not None:
        refusal = _end(adapter.endings, components, changes)
        changes.count(f"{adapter.endings.name} at the end of prompts ({refusal})", not refusal)
    for key in adapter.unmatched:
        changes.count(key, False)


def _apply(component: str, path: str, delta: Delta, components: Components, changes: Changes) -> bool:
    model = components.modules.get(component)
    found = find_module(model, path) if model is not None else None
    if found is None:
        return False
    name, module = found
    try:
        values = list(_values(delta, module, changes, (component, name)))
        new = [_change(component, name, parameter, base, value) for parameter, base, value in values]
    except IncompatibleArtifact:
        return False
    for change, (_, base, _) in zip(new, values, strict=True):
        place = (component, name, change.parameter)
        # Most of a whole model is often its base's: no second copy of that is kept.
        if place in changes.modules or not (isinstance(delta, Overwrite) and torch.equal(change.tuned, base)):
            changes.modules[place] = change
    return bool(new)


def _change(component: str, module: str, parameter: str, base: Tensor, value: Tensor) -> ModuleChange:
    if value.shape != base.shape:
        raise IncompatibleArtifact(
            f"a {parameter} of shape {tuple(value.shape)} does not fit {tuple(base.shape)}"
        )
    tuned = value.to(base)
    # Also where a finite change overflows the type that the base runs in.
    if not bool(torch.isfinite(tuned).all()):
        raise IncompatibleArtifact(f"a changed {parameter} is not finite")
    norm = float((value.double() - base.detach().double().cpu()).norm())
    return ModuleChange(component, module, parameter, tuned, norm)


def _values(
    delta: Delta, module: torch.nn.Module, changes: Changes, place: tuple[str, str]
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yields (parameter name, base value, tuned value on the CPU).

    Parts stack: a module that an earlier part changed is changed further.
    """
    if isinstance(delta, Overwrite):
        for parameter, stored in (("weight", delta.value), ("bias", delta.new_bias)):
            if stored is not None:
                yield parameter, _parameter(module, parameter), torch.from_numpy(stored.array())
        return
    # Values that are not finite are looked for in the outcome.
    with np.errstate(over="ignore", invalid="ignore"):
        if not isinstance(delta, Dense) or delta.value is not None:
            base = _parameter(module, "weight")
            start = _start(base, changes, (*place, "weight"))
            yield "weight", base, start + torch.from_numpy(delta.delta(start.numpy()))
        bias = getattr(module, "bias", None)
        before = None if bias is None else _start(bias, changes, (*place, "bias"))
        added = delta.bias(None if before is None else before.numpy())
        if added is not None:
            bias, more = _parameter(module, "bias"), torch.from_numpy(added)
            if before is None or more.shape != before.shape:
                raise IncompatibleArtifact(
                    f"a change of shape {tuple(more.shape)} does not fit a bias {tuple(bias.shape)}"
                )
            yield "bias", bias, before + more


def _start(base: Tensor, changes: Changes, place: tuple[str, str, str]) -> Tensor:
    earlier = changes.modules.get(place)
    return (earlier.tuned if earlier is not None else base).detach().float().cpu()


def _parameter(module: torch.nn.Module, name: str) -> Tensor:
    found = getattr(module, name, None)
    if not isinstance(found, torch.nn.Parameter):
        raise IncompatibleArtifact(f"the module has no {name}")
    return found


def find_module(model: torch.nn.Module, path: str) -> tuple[str, torch.nn.Module] | None:
    """The module that an adapter names by ``path``, and its own path in the base; None if there is none."""
    for name in (path, path.removeprefix(_TEXT_PREFIX), _TEXT_PREFIX + path):
        try:
            return name, model.get_submodule(name)
        except AttributeError:
            continue
    return None


def _longest(components: Components, encoder: str) -> int:
    """Tokens between the start and the end of the longest prompt."""
    return int(components.tokenizers[encoder].model_max_length) - 2


def _embed(token: str, encoder: str, stored: StoredTensor, components: Components, changes: Changes) -> str:
    """Adds the vectors of a token; returns why not, or nothing."""
    model = components.modules.get(encoder)
    if model is None:
        return "the base has no such encoder"
    if looks_ahead(model):
        return "only CLIP encoders take learnt vectors"
    count, most = (stored.shape[0] if len(stored.shape) == 2 else 1), _longest(components, encoder)
    if count > most:
        return f"no prompt of this base has room for {count} vectors, at most for {most}"
    vectors = torch.from_numpy(stored.array()).float()
    vectors = vectors.reshape(1, -1) if vectors.ndim == 1 else vectors
    width = int(model.config.hidden_size)  # type: ignore[union-attr, arg-type]
    if vectors.ndim != 2 or vectors.shape[1] != width or not bool(torch.isfinite(vectors).all()):
        return f"not finite vectors of width {width}"
    name = inert(token, 64)
    known = components.remember(
        ("vocabulary", encoder), lambda: frozenset(components.tokenizers[encoder].get_vocab())
    )
    if not name.strip() or name != token:
        return "the name is no plain text"
    # Loaders differ here: one refuses such a name, another lets the vectors hijack the word in every prompt.
    if token in known or f"{token.lower()}</w>" in known:
        return "the name is an ordinary word of the vocabulary"
    there = changes.embeddings.setdefault(name, {})
    if encoder in there:
        return "an earlier part has vectors for the same token"
    if any(len(other) != len(vectors) for other in there.values()):
        return "the encoders get different numbers of vectors"
    there[encoder] = vectors
    return ""


def _end(stored: StoredTensor, components: Components, changes: Changes) -> str:
    """Puts states at the end of every prompt; returns why not, or nothing."""
    if changes.endings is not None:
        return "an earlier part has such states"
    if set(components.text_encoders) - {"text_encoder", "text_encoder_2"} or "unet" not in components.modules:
        return "only UNets take learnt states"
    with torch.no_grad():
        own = components.remember("empty prompt", lambda: encode_prompts(components, components.tokenizers, [""]))
    _, length, width = own.states.shape
    steps, count, stored_width = stored.shape
    if stored_width != width or not count < length:
        return f"prompts of this base are encoded as {length} states of {width} values"
    if steps > len(components.schedule):
        return f"the base's schedule has {len(components.schedule)} steps"
    endings = torch.from_numpy(stored.array())
    if not bool(torch.isfinite(endings).all()):
        return "not finite"
    changes.endings = endings
    return ""
