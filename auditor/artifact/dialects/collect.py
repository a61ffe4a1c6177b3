"""Gathers the parts of each change as a dialect names them, and checks that the parts belong together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from auditor.artifact.adapter import Delta, Dense, LowRank, Overwrite
from auditor.artifact.dialects.fused import spread_over
from auditor.artifact.original_names import Spread
from auditor.artifact.problems import Problem, problem
from auditor.artifact.tensors import Tensor, TensorSource, tensor_of
from auditor.errors import IncompatibleArtifact
from auditor.text import inert

__all__ = ["Collected", "Collector", "Context", "Role", "Scaling"]

Role: TypeAlias = Literal["down", "up", "mid", "alpha", "magnitude", "dense", "weight", "bias"]
# (component, path) -> (alpha or None, rank stabilised); for dialects that keep alphas outside the tensors.
Scaling: TypeAlias = Callable[[str, str], tuple[float | None, bool]]

_ALPHA_BOUND = 1e6


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
            delta = self._build(component, path, roles, scaling)
            if delta is None:
                continue
            placed = components.setdefault(component, {})
            try:
                placed |= self._placed(component, path, delta, placed)
            except IncompatibleArtifact as error:
                self.left.extend(roles.values())
                told = f"{component} {inert(path, 80)}: {error}"
                self.problems.append(problem("dialect.fused", "medium", told))
        embeddings = {
            token: {encoder: tensor_of(self.source, key) for encoder, key in encoders.items()}
            for token, encoders in self.vectors.items()
            if encoders
        }
        components = {component: deltas for component, deltas in components.items() if deltas}
        return Collected(components, embeddings, tuple(sorted(self.left)), tuple(self.problems))

    def _placed(
        self, component: str, path: str, delta: Delta, taken: Mapping[str, Delta]
    ) -> Mapping[str, Delta]:
        spread = self.spreads.get((component, path))
        placed = {path: delta} if spread is None else spread_over(delta, spread)
        twice = next((target for target in placed if target in taken), None)
        if twice is not None:
            raise IncompatibleArtifact(f"{inert(twice, 80)} is already changed under another name")
        return placed

    def _build(
        self, component: str, path: str, roles: dict[Role, str], scaling: Scaling | None
    ) -> Delta | None:
        tensors = {role: tensor_of(self.source, key) for role, key in roles.items()}
        names = set(roles)
        where = f"{component} {inert(path, 80)}"
        if names <= {"weight", "bias"}:
            return Overwrite(tensors.get("weight"), tensors.get("bias"))
        if names == {"dense"}:
            return Dense(tensors["dense"])
        if not {"down", "up"} <= names or names & {"dense", "weight", "bias"}:
            told = f"{where} has {', '.join(sorted(names))} only, which is no complete change"
            self.left.extend(roles.values())
            self.problems.append(problem("dialect.incomplete", "medium", told))
            return None
        fault = _shape_fault(tensors)
        if fault:
            self.left.extend(roles.values())
            self.problems.append(problem("dialect.shape", "medium", f"{where}: {fault}"))
            return None
        alpha, stabilised = None, False
        if "alpha" in tensors:
            alpha = _number(tensors["alpha"])
        elif scaling is not None:
            alpha, stabilised = scaling(component, path)
        if alpha is not None and not abs(alpha) <= _ALPHA_BOUND:
            self.left.extend(roles.values())
            told = f"{where}: alpha is no single number below {_ALPHA_BOUND:.0f} in size"
            self.problems.append(problem("dialect.alpha", "high", told))
            return None
        axis = _magnitude_axis(tensors.get("magnitude"), tensors)
        return LowRank(
            tensors["down"],
            tensors["up"],
            alpha,
            tensors.get("mid"),
            tensors.get("magnitude"),
            axis,
            stabilised,
        )


def _number(tensor: Tensor) -> float:
    return tensor.scalar() if _size(tensor.shape) == 1 else float("nan")


def _shape_fault(tensors: Mapping[Role, Tensor]) -> str:
    down, up, mid = tensors["down"].shape, tensors["up"].shape, tensors.get("mid")
    if len(down) not in (2, 4) or len(up) not in (2, 4) or 0 in down or 0 in up:
        return f"factors of shape {down} and {up} are neither linear nor convolution factors"
    if up[2:] not in ((), (1, 1)):
        return f"the up factor {up} has a kernel of its own"
    if mid is None:
        if down[0] != up[1]:
            return f"factors of shape {down} and {up} do not multiply"
    elif (
        len(mid.shape) != 4
        or 0 in mid.shape
        or mid.shape[:2] != (up[1], down[0])
        or down[2:] not in ((), (1, 1))
    ):
        return f"factors of shape {down}, {mid.shape} and {up} do not multiply"
    magnitude = tensors.get("magnitude")
    if magnitude is not None and _size(magnitude.shape) not in (up[0], down[1]):
        return f"a magnitude of shape {magnitude.shape} fits neither {up[0]} outputs nor {down[1]} inputs"
    return ""


def _magnitude_axis(magnitude: Tensor | None, tensors: Mapping[Role, Tensor]) -> Literal["out", "in"]:
    """One norm an input only as LyCORIS writes it, (1, in, ...) under ``dora_scale``; else one an output."""
    if magnitude is None or not magnitude.name.endswith("dora_scale"):
        return "out"
    by_input = magnitude.shape[:2] == (1, tensors["down"].shape[1]) and len(magnitude.shape) > 1
    return "in" if by_input else "out"


def _size(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
