"""Recipes from a file: ``--config`` of ``auditor personalize``."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from auditor.errors import PolicyError, UsageError
from auditor.policy.positions import read_yaml
from auditor.text import did_you_mean, inert

__all__ = ["read_recipe"]

_LARGEST = 256 * 1024


def read_recipe(path: Path, known: Iterable[str]) -> dict[str, Any]:
    """Field names and JSON values of a YAML or JSON file; dashes in names are read as underscores.

    Args:
        path: the file.
        known: the names that may occur.

    Raises:
        UsageError: it cannot be read, is no mapping, or has a key that is not known; the closest one is given.
    """
    shown, names = inert(str(path), 300), list(known)
    document = _read_json(path, shown) if path.suffix.lower() == ".json" else _read_yaml(path)
    if not isinstance(document, dict):
        raise UsageError(f"the recipe {shown} is no mapping of keys to values, such as 'steps: 300'")
    found = {}
    for key, value in document.items():
        name = key.replace("-", "_")
        if name not in names:
            raise UsageError(f"the recipe {shown} has an unknown key '{inert(key)}'{did_you_mean(name, names)}")
        if name in found:
            raise UsageError(f"the recipe {shown} has the key '{inert(name)}' twice")
        found[name] = value
    return found


def _read_yaml(path: Path) -> Any:
    try:
        return read_yaml(path, "recipe")[0]
    except PolicyError as error:
        raise UsageError(str(error)) from error


def _read_json(path: Path, shown: str) -> Any:
    try:
        if path.stat().st_size > _LARGEST:
            raise UsageError(f"the recipe {shown} is larger than {_LARGEST // 1024} kB")
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the recipe {shown}: {(error.strerror or 'error').lower()}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the recipe {shown} is not valid JSON") from error
