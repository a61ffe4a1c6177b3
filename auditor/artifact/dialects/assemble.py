"""From the named parts of one module to the change that they make together, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, NamedTuple, TypeAlias

from auditor.artifact.adapter import (
    Delta,
    Dense,
    GeneralisedLowRank,
    Hadamard,
    Kronecker,
    LowRank,
    Overwrite,
    Rotation,
    Scaled,
)
from auditor.artifact.dialects.roles import Role
from auditor.artifact.tensors import Tensor

__all__ = ["Misfit", "Scale", "assemble"]

Parts: TypeAlias = Mapping[Role, Tensor]

_ALPHA_BOUND = 1e6


class Scale(NamedTuple):
    """What a dialect knows of a scale that no tensor holds.

    Attributes:
        alpha: numerator of the scale, or None.
        stabilised: it is divided by sqrt(r) in place of r.
        rank: r, where no factor shows it.
        on_input: whether factors are for inputs, or None where that is not known.
    """

    alpha: float | None = None
    stabilised: bool = False
    rank: int | None = None
    on_input: bool | None = None


@dataclass
class Misfit(Exception):
    """The parts make no change: a stable code, and the end of a sentence that begins with the module."""

    code: str
    detail: str
    severity: Literal["medium", "high"] = "medium"


def assemble(parts: Parts, scale: Scale | None = None) -> Delta:
    """Builds the change of one module.

    Args:
        parts: role to tensor, for every key that names the module.
        scale: what is known of the scale outside of the tensors; an alpha among the parts goes first.

    Raises:
        Misfit: a part is missing, foreign to the others, or of another shape.
    """
    names = set(parts)
    kind = next((kind for kind in _KINDS if kind.needed <= names <= kind.allowed), None)
    if kind is None:
        raise Misfit(
            "dialect.incomplete", f"has {', '.join(sorted(names))} only, which is no complete change"
        )
    change = kind.build(parts, scale)
    fault = change.fault()
    if fault:
        raise Misfit("dialect.shape", fault)
    bias = change.bias_delta
    if bias is not None and len(bias.shape) != 1:
        raise Misfit("dialect.shape", f"a change of the bias has shape {bias.shape}")
    return change


@dataclass(frozen=True)
class _Kind:
    needed: frozenset[str]
    allowed: frozenset[str]
    build: Callable[[Parts, Scale | None], Delta]


def _kind(
    build: Callable[[Parts, Scale | None], Delta], needed: Collection[str], more: Collection[str]
) -> _Kind:
    return _Kind(frozenset(needed), frozenset((*needed, *more)), build)


def _overwrite(parts: Parts, scale: Scale | None) -> Delta:
    return Overwrite(parts.get("weight"), parts.get("bias"))


def _dense(parts: Parts, scale: Scale | None) -> Delta:
    return Dense(parts.get("dense"), bias_delta=parts.get("bias_delta"))


def _low_rank(parts: Parts, scale: Scale | None) -> Delta:
    return LowRank(
        parts["down"],
        parts["up"],
        parts.get("mid"),
        scale.stabilised if scale is not None and "alpha" not in parts else False,
        **_factored(parts, scale),
    )


def _hadamard(parts: Parts, scale: Scale | None) -> Delta:
    return Hadamard(
        parts["hada_w1_a"],
        parts["hada_w1_b"],
        parts["hada_w2_a"],
        parts["hada_w2_b"],
        parts.get("hada_t1"),
        parts.get("hada_t2"),
        **_factored(parts, scale),
    )


def _kronecker(parts: Parts, scale: Scale | None) -> Delta:
    halves: dict[str, Any] = {
        role.removeprefix("lokr_"): part for role, part in parts.items() if role.startswith("lokr_")
    }
    dimension = scale.rank if scale is not None and "alpha" not in parts else None
    return Kronecker(dimension=dimension, **halves, **_factored(parts, scale))


def _rotation(parts: Parts, scale: Scale | None) -> Delta:
    # LyCORIS takes a limit of zero or less for none.
    return Rotation(parts["oft_blocks"], _alpha(parts) or 0.0, parts.get("rescale"))


def _generalised(parts: Parts, scale: Scale | None) -> Delta:
    return GeneralisedLowRank(
        parts["a1"], parts["a2"], parts["b1"], parts["b2"], _alpha(parts), parts.get("bm")
    )


def _scaled(parts: Parts, scale: Scale | None) -> Delta:
    return Scaled(parts["ia3"], on_input=_number(parts["on_input"], "on_input") != 0)


def _scaled_by_peft(parts: Parts, scale: Scale | None) -> Delta:
    shape = parts["ia3_l"].shape
    # Of a matrix (1, in) and (out, 1) tell the two apart, of a convolution both are (1, n, 1, 1).
    on_input: bool | None = shape[0] == 1 if len(shape) == 2 and 1 in shape else None
    if len(shape) > 2 and scale is not None:
        on_input = scale.on_input
    if on_input is None:
        raise Misfit(
            "dialect.shape", f"factors of shape {shape} do not say whether they are for inputs or outputs"
        )
    return Scaled(parts["ia3_l"], on_input, around_one=False, with_bias=True)


_TENSOR_SCALE: tuple[Role, ...] = ("alpha", "scalar", "magnitude", "bias_delta")
_KINDS: tuple[_Kind, ...] = (
    _kind(_low_rank, ("down", "up"), ("mid", *_TENSOR_SCALE)),
    _kind(_overwrite, ("weight",), ("bias",)),
    _kind(_overwrite, ("bias",), ()),
    _kind(_dense, ("dense",), ("bias_delta",)),
    _kind(_dense, ("bias_delta",), ()),
    _kind(
        _hadamard,
        ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
        ("hada_t1", "hada_t2", *_TENSOR_SCALE),
    ),
    *(
        _kind(_kronecker, (*first, *second), (*more, *_TENSOR_SCALE))
        for first in (("lokr_w1",), ("lokr_w1_a", "lokr_w1_b"))
        for second, more in ((("lokr_w2",), ()), (("lokr_w2_a", "lokr_w2_b"), ("lokr_t2",)))
    ),
    _kind(_rotation, ("oft_blocks",), ("rescale", "alpha")),
    _kind(_generalised, ("a1", "a2", "b1", "b2"), ("bm", "alpha")),
    _kind(_scaled, ("ia3", "on_input"), ()),
    _kind(_scaled_by_peft, ("ia3_l",), ()),
)


def _factored(parts: Parts, scale: Scale | None) -> dict[str, Any]:
    """The arguments that every product of factors takes."""
    alpha = _alpha(parts)
    if "alpha" not in parts and scale is not None and scale.alpha is not None:
        alpha = _bounded(scale.alpha, "alpha")
    magnitude = parts.get("magnitude")
    return {
        "alpha": alpha,
        "multiplier": _number(parts["scalar"], "scalar") if "scalar" in parts else 1.0,
        "magnitude": magnitude,
        "magnitude_axis": "in" if magnitude is not None and _by_input(magnitude) else "out",
        "bias_delta": parts.get("bias_delta"),
    }


def _alpha(parts: Parts) -> float | None:
    return _number(parts["alpha"], "alpha") if "alpha" in parts else None


def _number(tensor: Tensor, name: str) -> float:
    return _bounded(tensor.scalar() if prod(tensor.shape) == 1 else float("nan"), name)


def _bounded(value: float, name: str) -> float:
    if not abs(value) <= _ALPHA_BOUND:
        raise Misfit("dialect.alpha", f"{name} is no single number below {_ALPHA_BOUND:.0f} in size", "high")
    return value


def _by_input(magnitude: Tensor) -> bool:
    """One norm an input only as LyCORIS writes it, (1, in, ...) under ``dora_scale``; else one an output."""
    shape = magnitude.shape
    return magnitude.name.endswith("dora_scale") and len(shape) > 1 and shape[0] == 1 and shape[1] > 1
