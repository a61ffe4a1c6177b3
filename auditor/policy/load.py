"""Policies from YAML files, with errors that name file, line and key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from auditor.errors import PolicyError
from auditor.policy.model import Gates, Policy
from auditor.policy.positions import Lines, read_yaml
from auditor.text import did_you_mean, inert

__all__ = ["load_policy", "policy_from_document", "shipped_policies"]

FOLDER = Path(__file__).parent
MODELS: dict[tuple[str | int, ...], type[BaseModel]] = {(): Policy, ("gates",): Gates}


def shipped_policies() -> tuple[str, ...]:
    """Names of the policies that come with this tool."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def load_policy(name_or_path: str | Path = "default") -> Policy:
    """A shipped policy by name, or one from a YAML file.

    Raises:
        PolicyError: no such policy (with the closest name), or a file that is not a policy: file, line and
            key are named.
    """
    path = Path(name_or_path)
    if str(name_or_path) in shipped_policies():
        path = FOLDER / f"{name_or_path}.yaml"
    elif not path.exists():
        hint = did_you_mean(str(name_or_path), shipped_policies())
        names = ", ".join(shipped_policies())
        raise PolicyError(
            f"there is no policy or policy file '{inert(str(name_or_path), 300)}'{hint} (shipped: {names})"
        )
    value, lines = read_yaml(path)
    shown = inert(str(path), 300)
    if not isinstance(value, dict):
        raise PolicyError(f"{shown}, line 1: a policy is a mapping of keys to values")
    try:
        return Policy.model_validate(value)
    except ValidationError as problem:
        raise PolicyError(_told(shown, problem, lines)) from problem


def policy_from_document(document: str) -> Policy:
    """The policy that a plan recorded.

    Raises:
        PolicyError: it is not one.
    """
    try:
        return Policy.model_validate(json.loads(document))
    except (ValidationError, ValueError) as problem:
        raise PolicyError("the policy in the plan is damaged or of another version of this tool") from problem


def _told(shown: str, problem: ValidationError, lines: Lines) -> str:
    # The first in the file, as its author reads it.
    first = min(problem.errors(), key=lambda error: _line(error["loc"], lines))
    location = first["loc"]
    key = inert(".".join(str(part) for part in location)) or "policy"
    where = f"{shown}, line {_line(location, lines)}: key '{key}'"
    if first["type"] == "extra_forbidden":
        model = MODELS.get(location[:-1])
        known = list(model.model_fields) if model else []
        return f"{where} is unknown{did_you_mean(str(location[-1]), known)}"
    if first["type"] == "missing":
        return f"{where} is missing"
    return f"{where}: {_sentence(first['msg'], first.get('input'))}"


def _sentence(message: str, given: Any) -> str:
    text = message.removeprefix("Value error, ")
    text = text[:1].lower() + text[1:]
    return f"{text}, not {inert(repr(given), 60)}" if text.startswith("input should") else text


def _line(location: tuple[str | int, ...], lines: Lines) -> int:
    while location and location not in lines:
        location = location[:-1]
    return lines.get(location, 1)
