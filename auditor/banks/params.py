"""A plugin's parameters as JSON, and their hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable
from functools import lru_cache
from typing import Any, cast

from pydantic import TypeAdapter

from auditor.contracts import JsonValue, Params

__all__ = ["params_document", "params_sha256"]


def params_document(params: Params) -> dict[str, JsonValue]:
    """A parameter dataclass as a JSON object with plain values; tuples become lists.

    Raises:
        TypeError: ``params`` is not a dataclass instance.
    """
    document = _adapter(cast(Hashable, type(params))).dump_python(params, mode="json")
    if not isinstance(document, dict):
        raise TypeError(f"parameters must be a dataclass, not {type(params).__name__}")
    return document


def params_sha256(params: Params) -> str:
    """SHA-256 of the canonical JSON of ``params``, in hex: scores under other parameters are other scores."""
    text = json.dumps(params_document(params), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@lru_cache(maxsize=64)
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
