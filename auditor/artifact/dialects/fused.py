"""Changes of a fused projection as changes of the separate modules that diffusers has in its place.

A low-rank change ``up @ down`` of stacked weights is, for each of them, its own rows of ``up`` times the whole
``down``. Nothing is copied: every module gets a view of the same stored tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from auditor.artifact.adapter import Delta, Dense, Factored, Hadamard, LowRank, Overwrite
from auditor.artifact.deltas.rows import Rows
from auditor.artifact.original_names import Spread, row_spans
from auditor.artifact.tensors import Tensor
from auditor.errors import IncompatibleArtifact

__all__ = ["spread_over"]

_Spans = tuple[tuple[int, int], ...]


def spread_over(delta: Delta, spread: Spread) -> Mapping[str, Delta]:
    """Diffusers module to its part of the change of an original module.

    Raises:
        IncompatibleArtifact: the rows do not come apart that way, or the change cannot be cut into rows.
    """
    spans = row_spans(spread, delta.shape)
    if spans is None or 0 in delta.shape:
        raise IncompatibleArtifact(
            f"a change of shape {delta.shape} does not come apart into {len(spread.targets)} modules"
        )
    return {target: _cut(delta, span) for target, span in zip(spread.targets, spans, strict=True)}


def _cut(delta: Delta, spans: _Spans) -> Delta:
    bias = _rows(delta.bias_delta, delta, spans)
    if isinstance(delta, Dense):
        return Dense(_rows(delta.value, delta, spans), bias_delta=bias)
    if isinstance(delta, Overwrite):
        return Overwrite(_rows(delta.value, delta, spans), _rows(delta.new_bias, delta, spans))
    if isinstance(delta, Factored):
        if delta.magnitude is not None and delta.magnitude_axis == "in":
            # One norm an input spans the rows of all modules together, so none of them has it alone.
            raise IncompatibleArtifact("a DoRA norm of each input binds the fused projections together")
        magnitude = _rows(delta.magnitude, delta, spans)
        if isinstance(delta, LowRank):
            return replace(delta, up=delta.up.arranged(spans), magnitude=magnitude, bias_delta=bias)
        if isinstance(delta, Hadamard) and delta.t1 is None and delta.t2 is None:
            left, right = delta.w1_a.arranged(spans), delta.w2_a.arranged(spans)
            return replace(delta, w1_a=left, w2_a=right, magnitude=magnitude, bias_delta=bias)
        if magnitude is None:
            return Rows(delta, spans, bias_delta=bias)
    raise IncompatibleArtifact(f"a {type(delta).__name__} change of a fused projection is not cut into rows")


def _rows(tensor: Tensor | None, delta: Delta, spans: _Spans) -> Tensor | None:
    if tensor is not None and tensor.shape[:1] != delta.shape[:1]:
        raise IncompatibleArtifact(f"a tensor of shape {tensor.shape} beside a change of shape {delta.shape}")
    return tensor.arranged(spans) if tensor is not None else None
