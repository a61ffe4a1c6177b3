"""Tensors for the dialect tests: random ones from a seed, and zeros in the shapes of real files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from auditor.artifact.adapter import Adapter
from auditor.artifact.claims import parse_claims
from auditor.artifact.dialects import Context, read_adapter
from auditor.artifact.tensors import ArrayTensors

HEADERS = Path(__file__).parents[2] / "fixtures" / "headers"
NUMPY = {"F16": np.float16, "F32": np.float32}


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260)


@pytest.fixture
def real_header() -> Callable[[str], ArrayTensors]:
    """Zeros under the names, types and shapes of a published file, with its metadata; scalars are 8."""

    def load(name: str) -> ArrayTensors:
        header = json.loads((HEADERS / f"{name}.json").read_text())
        arrays: dict[str, Any] = {
            key: np.full(shape, 0 if shape else 8, NUMPY[dtype])
            for key, (dtype, shape) in header["tensors"].items()
        }
        return ArrayTensors(arrays, header["metadata"])

    return load


@pytest.fixture
def read() -> Callable[..., Adapter]:
    """Reads arrays (and metadata, config) as an adapter."""

    def run(arrays: dict[str, Any], metadata: dict[str, str] | None = None, **known: Any) -> Adapter:
        source = ArrayTensors(arrays, metadata or {})
        claims = parse_claims(source.metadata, known.get("config"))
        return read_adapter(source, Context(**known), claims)

    return run
