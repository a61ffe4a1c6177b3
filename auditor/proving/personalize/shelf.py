"""What a run leaves in its folder: a file is there whole or not at all, and what is there is not made again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from auditor.errors import MalformedArtifact
from auditor.proving.counts import write_json, write_whole
from auditor.text import inert

__all__ = ["digest", "kept_pictures", "kept_record", "read_record"]


def digest(*said: Any) -> str:
    """Twelve digits that tell JSON values apart."""
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()[:12]


def kept_record(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The JSON object at ``path``, made and written first if it is not there.

    Raises:
        MalformedArtifact: what is there is none. OutputError: it cannot be written.
    """
    if path.exists():
        return read_record(path)
    record = make()
    write_json(path, record)
    return record


def read_record(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ``MalformedArtifact`` where it is none."""
    try:
        record = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise MalformedArtifact(
            f"'{inert(path.name)}' is no record; remove it, and it is made again"
        ) from error
    if not isinstance(record, dict):
        raise MalformedArtifact(f"'{inert(path.name)}' is no record; remove it, and it is made again")
    return record


def kept_pictures(path: Path, draw: Callable[[], np.ndarray]) -> np.ndarray:
    """Pictures, uint8 (N, H, W, 3), of the ``.npy`` at ``path``, drawn and written first if it is not there.

    Raises:
        MalformedArtifact: what is there is no such file. OutputError: it cannot be written.
    """
    if not path.exists():
        import io

        data = io.BytesIO()
        np.save(data, draw(), allow_pickle=False)
        write_whole(path, data.getvalue())
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise MalformedArtifact(f"'{inert(path.name)}' holds no pictures; remove it") from error
