"""JSON as the event log keeps it: strict, and equal to itself after a round trip."""

from __future__ import annotations

import hashlib
import json

import numpy as np

from auditor.contracts import JsonValue

__all__ = ["canonical_json", "encode", "round_trip", "sha256_of"]


def encode(value: JsonValue) -> str:
    """One line of strict JSON; floats by their shortest exact form, numpy arrays as nested lists.

    Raises:
        ValueError: NaN or infinity: a number that could not be computed must be said in words.
        TypeError: something that JSON has no form for.
    """
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False, default=_plain)
    except ValueError as problem:
        raise ValueError(
            "a recorded value holds NaN or infinity (or itself); use None and say why"
        ) from problem


def round_trip(value: JsonValue) -> JsonValue:
    """``value`` as a resumed run would get it: tuples become lists, keys become text."""
    return json.loads(encode(value))


def canonical_json(value: JsonValue) -> str:
    """JSON with sorted keys, for hashing and comparing."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_plain)


def sha256_of(value: JsonValue) -> str:
    """SHA-256 of :func:`canonical_json`, in hex."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def _plain(value: object) -> JsonValue:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"a recorded value holds a {type(value).__name__}, which JSON has no form for")
