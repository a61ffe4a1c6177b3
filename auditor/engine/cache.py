"""A cache outside the tree, addressed by what went into a computation. Losing it costs only time."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auditor.contracts import JsonValue
from auditor.engine.files import write_atomic
from auditor.engine.values import encode, round_trip, sha256_of
from auditor.errors import OutputError

__all__ = ["cache_directory", "cached_arrays", "cached_bytes", "cached_json"]

DIGEST = hashlib.sha256().digest_size


def cache_directory() -> Path:
    """``AUDITOR_CACHE`` if set, else a folder of ours in ``XDG_CACHE_HOME`` or ``~/.cache``."""
    named = os.environ.get("AUDITOR_CACHE")
    if named:
        return Path(named)
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "personalized-model-auditor"


def cached_bytes(key_parts: Sequence[JsonValue], compute: Callable[[], bytes]) -> bytes:
    """``compute()``, or what it gave before for the same key.

    A stored value carries its own hash; one that is torn or changed is computed again, and a cache that
    cannot be written is done without.

    Args:
        key_parts: JSON values that determine the value entirely: what is computed and its version, hashes of
            models and inputs, parameters, dtype and device where they matter.
        compute: gives the value.
    """
    key = sha256_of(list(key_parts))
    path = cache_directory() / key[:2] / key
    stored = _read(path)
    if stored is not None:
        return stored
    value = compute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(path, hashlib.sha256(value).digest() + value)
    except (OSError, OutputError):
        return value
    return value


def cached_json(key_parts: Sequence[JsonValue], compute: Callable[[], JsonValue]) -> JsonValue:
    """As :func:`cached_bytes` for a JSON value; tuples come back as lists also the first time.

    Raises:
        ValueError: the value holds NaN or infinity.
    """
    return json.loads(cached_bytes([*key_parts, "json"], lambda: encode(round_trip(compute())).encode()))


def cached_arrays(
    key_parts: Sequence[JsonValue], compute: Callable[[], Mapping[str, NDArray[Any]]]
) -> dict[str, NDArray[Any]]:
    """As :func:`cached_bytes` for named numpy arrays of plain dtypes, bit for bit.

    Raises:
        ValueError: an array of Python objects.
    """
    with np.load(
        io.BytesIO(cached_bytes([*key_parts, "npz"], lambda: _pack(compute()))), allow_pickle=False
    ) as file:
        return {name: file[name] for name in file.files}


def _pack(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _read(path: Path) -> bytes | None:
    try:
        data = path.read_bytes()
    except OSError:
        return None
    digest, value = data[:DIGEST], data[DIGEST:]
    return value if hashlib.sha256(value).digest() == digest else None
