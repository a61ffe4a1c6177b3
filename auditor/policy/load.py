"""Policies and waivers from YAML files, with errors that name file, line and key."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from auditor.errors import PolicyError
from auditor.policy.model import Gates, Policy, WaiverRule
from auditor.policy.positions import Lines, line_of, read_yaml
from auditor.text import did_you_mean, inert

__all__ = [
    "Problem",
    "load_policy",
    "load_waivers",
    "policy_from_document",
    "policy_path",
    "read_policy",
    "shipped_policies",
]

FOLDER = Path(__file__).parent
_WAIVERS: TypeAdapter[tuple[WaiverRule, ...]] = TypeAdapter(tuple[WaiverRule, ...])

Keys = Mapping[tuple[str, ...], Iterable[str]]
_OF_A_POLICY: Keys = {
    (): Policy.model_fields,
    ("gates",): Gates.model_fields,
    ("waivers",): WaiverRule.model_fields,
}
_OF_WAIVERS: Keys = {("waivers",): WaiverRule.model_fields, (): WaiverRule.model_fields}


@dataclass(frozen=True)
class Problem:
    """What keeps a file from being a policy.

    Attributes:
        line: from 1.
        key: where in the document, such as ``gates.high``.
        text: one clause that goes on after the key, such as ``is missing``.
    """

    line: int
    key: str
    text: str

    def told(self, shown: str) -> str:
        """One sentence with the file's name, which is inert already."""
        return f"{shown}, line {self.line}: key '{self.key}'{self.text}"


class _WaiverFile(BaseModel, extra="forbid", frozen=True):
    waivers: tuple[WaiverRule, ...]


def shipped_policies() -> tuple[str, ...]:
    """Names of the policies that come with this tool."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def policy_path(name_or_path: str | Path) -> Path:
    """The file of a shipped policy, by its name with dashes or underscores, or a path as it is given.

    Raises:
        PolicyError: no such policy and no such file; the closest name is given.
    """
    name = str(name_or_path).replace("_", "-")
    if name in shipped_policies():
        return FOLDER / f"{name}.yaml"
    path = Path(name_or_path)
    if not path.exists():
        shown = inert(str(name_or_path), 300)
        hint = did_you_mean(name, shipped_policies())
        names = ", ".join(shipped_policies())
        raise PolicyError(f"there is no policy or policy file '{shown}'{hint} (shipped: {names})")
    return path


def load_policy(name_or_path: str | Path = "default") -> Policy:
    """A shipped policy by name, or one from a YAML file.

    Raises:
        PolicyError: no such policy (with the closest name), or a file that is not a policy: file, line and
            key of the first problem are named.
    """
    path = policy_path(name_or_path)
    policy, problems, _ = read_policy(path)
    if policy is None:
        raise PolicyError(problems[0].told(inert(str(path), 300)))
    return policy


def read_policy(path: Path) -> tuple[Policy | None, list[Problem], Lines]:
    """A policy file with everything that is wrong with it, in the order of its lines, and its lines by key.

    Raises:
        PolicyError: the file cannot be read, is not such YAML, or is no mapping.
    """
    value, lines = read_yaml(path)
    if not isinstance(value, dict):
        raise PolicyError(f"{inert(str(path), 300)}, line 1: a policy is a mapping of keys to values")
    try:
        return Policy.model_validate(value), [], lines
    except ValidationError as problem:
        return None, _problems(problem, lines, _OF_A_POLICY), lines


def load_waivers(path: Path) -> tuple[WaiverRule, ...]:
    """The waivers of a YAML file: a list of them, or a mapping whose only key is ``waivers``.

    Raises:
        PolicyError: the file cannot be read, or is something else; file, line and key are named.
    """
    value, lines = read_yaml(path, "waiver file")
    shown = inert(str(path), 300)
    found: tuple[WaiverRule, ...] = ()
    try:
        if isinstance(value, dict):
            found = _WaiverFile.model_validate(value).waivers
        elif isinstance(value, list):
            found = _WAIVERS.validate_python(value)
    except ValidationError as problem:
        raise PolicyError(_problems(problem, lines, _OF_WAIVERS)[0].told(shown)) from problem
    if not found:
        raise PolicyError(
            f"{shown}, line 1: a waiver file is a list of waivers: rule, owner, reason, expires"
        )
    return found


def policy_from_document(document: str) -> Policy:
    """The policy that a plan recorded.

    Raises:
        PolicyError: it is not one.
    """
    try:
        return Policy.model_validate(json.loads(document))
    except (ValidationError, ValueError) as problem:
        raise PolicyError("the policy in the plan is damaged or of another version of this tool") from problem


def _problems(problem: ValidationError, lines: Lines, known: Keys) -> list[Problem]:
    found = [_problem(error, lines, known) for error in problem.errors(include_url=False)]
    return sorted(found, key=lambda each: each.line)


def _problem(error: Any, lines: Lines, known: Keys) -> Problem:
    location = error["loc"]
    key = inert(".".join(str(part) for part in location)) or "policy"
    line = line_of(location, lines)
    if error["type"] == "extra_forbidden":
        beside = tuple(part for part in location[:-1] if isinstance(part, str))
        return Problem(line, key, f" is unknown{did_you_mean(str(location[-1]), known.get(beside, ()))}")
    if error["type"] == "missing":
        return Problem(line, key, " is missing")
    return Problem(line, key, f": {_sentence(error['msg'], error.get('input'))}")


def _sentence(message: str, given: Any) -> str:
    text = message.removeprefix("Value error, ")
    text = text[:1].lower() + text[1:]
    return f"{text}, not {inert(repr(given), 60)}" if text.startswith("input should") else text
