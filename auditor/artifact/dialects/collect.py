"""Gathers the parts of each change as a dialect names them, and checks that the parts belong together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from auditor.artifact.adapter import Delta, Factored
from auditor.artifact.deltas import Rows
from auditor.artifact.dialects.assemble import Misfit, Scale, assemble
from auditor.artifact.dialects.fused import spread_over
from auditor.artifact.dialects.roles import Role
from auditor.artifact.original_names import Spread
from auditor.artifact.problems import Problem, problem
from auditor.artifact.tensors import Tensor, TensorSource, tensor_of
from auditor.errors import IncompatibleArtifact
from auditor.text import inert

__all__ = ["Collected", "Collector", "Context", "Role", "Scale", "Scaling"]

# (component, path) -> scale; for dialects that keep alphas outside the tensors.
Scaling: TypeAlias = Callable[[str, str], Scale]


@dataclass(frozen=True)
class Context:
    """What is known beside the tensors.

    Attributes:
        stem: the file's name without its ending; names an embedding that does not name itself.
        config: the ``adapter_config.json`` beside the file, parsed, or None.
        base: component to module path to weight shape of a base that was named, or None.
    """

    stem: str = ""
    config: Mapping[str, Any] | None = None
    base: Mapping[str, Mapping[str, tuple[int, ...]]] | None = None


@dataclass(frozen=True)
class Collected:
    """What a dialect made of the tensors of a source."""

    components: Mapping[str, Mapping[str, Delta]]
    embeddings: Mapping[str, Mapping[str, Tensor]]
    unmatched: tuple[str, ...]
    problems: tuple[Problem, ...]
    endings: Tensor | None = None


@dataclass
class Collector:
    """Collects parts key by key; :meth:`finish` turns them into changes.

    Every key of the source ends in exactly one place: a change, a vector, or ``unmatched``. A key of a fused
    projection serves all the changes that the projection comes apart into, or none of them.
    """

    source: TensorSource
    parts: dict[tuple[str, str], dict[Role, str]] = field(default_factory=dict)
    spreads: dict[tuple[str, str], Spread] = field(default_factory=dict)
    vectors: dict[str, dict[str, str]] = field(default_factory=dict)
    endings: str = ""
    left: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def add(self, component: str, path: str, role: Role, key: str) -> None:
        """Files a key as one part of the change of a module; a second key for the same part is left over."""
        roles = self.parts.setdefault((component, path), {})
        if role in roles:
            self.reject(
                key, "dialect.duplicate", f"'{key}' and '{roles[role]}' name the same part of the same module"
            )
        else:
            roles[role] = key

    def add_original(self, name: str, spread: Spread, role: Role, key: str) -> None:
        """Files a key as one part of the change of a module of the original Flux or SD3 code."""
        if spread.rows == "whole":
            self.add("transformer", spread.targets[0], role, key)
        else:
            self.spreads["transformer", name] = spread
            self.add("transformer", name, role, key)

    def add_vectors(self, token: str, encoder: str, key: str) -> None:
        """Files a key as the vectors of a token for one text encoder, shape (dim,) or (n, dim)."""
        shape = self.source.specs[key].shape
        if not 1 <= len(shape) <= 2 or 0 in shape:
            self.reject(
                key, "dialect.shape", f"token vectors '{key}' have shape {shape}, not (dim,) or (n, dim)"
            )
        elif encoder in self.vectors.setdefault(token, {}):
            self.reject(key, "dialect.duplicate", f"'{key}' gives a second set of vectors for the same token")
        else:
            self.vectors[token][encoder] = key

    def set_endings(self, key: str) -> None:
        """Files a key as what ends every encoded prompt, (steps, n, dim)."""
        if 0 in self.source.specs[key].shape:
            self.reject(key, "dialect.shape", f"'{key}' holds no values")
        else:
            self.endings = key

    def reject(self, key: str, code: str, detail: str) -> None:
        """Leaves a key over and says why."""
        self.left.append(key)
        self.problems.append(problem(code, "medium", detail))

    def note(self, code: str, detail: str) -> None:
        """Records an oddity that leaves no key over."""
        self.problems.append(problem(code, "info", detail))

    def finish(self, scaling: Scaling | None = None) -> Collected:
        """Builds the changes. Parts that do not fit together become unmatched keys with a problem."""
        components: dict[str, dict[str, Delta]] = {}
        for (component, path), roles in self.parts.items():
            tensors = {role: tensor_of(self.source, key) for role, key in roles.items()}
            known = scaling(component, path) if scaling is not None else None
            placed = components.setdefault(component, {})
            try:
                placed |= self._placed(component, path, assemble(tensors, known), placed)
            except Misfit as misfit:
                self.left.extend(roles.values())
                told = f"{component} {inert(path, 80)}: {misfit.detail}"
                self.problems.append(problem(misfit.code, misfit.severity, told))
        self._note_zero_alphas(components)
        embeddings = {
            token: {encoder: tensor_of(self.source, key) for encoder, key in encoders.items()}
            for token, encoders in self.vectors.items()
            if encoders
        }
        components = {component: changes for component, changes in components.items() if changes}
        endings = tensor_of(self.source, self.endings) if self.endings else None
        return Collected(components, embeddings, tuple(sorted(self.left)), tuple(self.problems), endings)

    def _placed(
        self, component: str, path: str, delta: Delta, taken: Mapping[str, Delta]
    ) -> Mapping[str, Delta]:
        spread = self.spreads.get((component, path))
        try:
            placed = {path: delta} if spread is None else spread_over(delta, spread)
        except IncompatibleArtifact as error:
            raise Misfit("dialect.fused", str(error)) from error
        twice = next((target for target in placed if target in taken), None)
        if twice is not None:
            raise Misfit("dialect.duplicate", f"{inert(twice, 80)} is already changed under another name")
        return placed

    def _note_zero_alphas(self, components: Mapping[str, Mapping[str, Delta]]) -> None:
        zero = [
            f"{component} {inert(path, 80)}"
            for component, changes in components.items()
            for path, change in changes.items()
            if _alpha(change) == 0
        ]
        if zero:
            told = f"alpha is 0 in {len(zero)} modules, '{zero[0]}' for example: it is read as a scale of 0, while "
            told += "lycoris-lora and its relatives take 0 for unset and apply the change in full"
            self.problems.append(problem("dialect.alpha_zero", "medium", told))


def _alpha(change: Delta) -> float | None:
    whole = change.whole if isinstance(change, Rows) else change
    return whole.alpha if isinstance(whole, Factored) else None
