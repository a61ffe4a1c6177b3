"""What is timed: every registered method as it comes, and forms of it that cost something else."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from auditor.contracts import Params
from auditor.errors import UsageError
from auditor.registry import METHODS
from auditor.text import did_you_mean, inert

__all__ = ["Case", "cases", "noise_pictures", "recipe_of"]

_STEPS = 1_000_000
"""More than are timed: training is stopped when enough is known."""


@dataclass(frozen=True)
class Case:
    """One training to time.

    Attributes:
        name: in tables.
        method: its id.
        changed: parameters other than the method's own defaults; folders are filled in by :func:`recipe_of`.
        pictures: how many the folder has.
        folders: parameters that name a further folder of pictures.
    """

    name: str
    method: str
    changed: Mapping[str, Any] = field(default_factory=dict)
    pictures: int = 4
    folders: tuple[str, ...] = ()


# What a method cannot do without, or what would make its steps differ from one another.
_NEEDS: Mapping[str, Mapping[str, Any]] = {
    "hifi": {"changed": {"refine": 0}},
    "resadapter": {"changed": {"scales": (1.5,)}},
    "sigstyle": {"pictures": 1},
    "sine": {"pictures": 1},
    "styleforge": {"folders": ("aux",)},
}
_PRIOR = {"class_prompt": "a picture of a person", "class_images": 2}
_FORMS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "dreambooth": {"prior": _PRIOR, "text encoder": {"train_text_encoder": True}},
    "dreambooth-lora": {"prior": _PRIOR, "text encoder": {"train_text_encoder": True}},
}


def cases(methods: Sequence[str] = ()) -> list[Case]:
    """Cases of the named methods, of all that are registered by default, in name order.

    Raises:
        UsageError: there is no such method.
    """
    known = METHODS.names()
    for name in methods:
        if name not in known:
            raise UsageError(f"unknown method '{inert(name)}'{did_you_mean(name, known)} (auditor list methods)")
    found = []
    for method in sorted(set(methods)) or known:
        plain = Case(method, method, **_NEEDS.get(method, {}))
        found.append(plain)
        for form, changed in _FORMS.get(method, {}).items():
            more = {**plain.changed, **changed}
            found.append(dataclasses.replace(plain, name=f"{method}, {form}", changed=more))
    return found


def recipe_of(case: Case, batch: int, folder: Path) -> Params:
    """The method's parameters for a training that does not end by itself.

    Args:
        case: what is timed.
        batch: rows a step, where the method has such a parameter.
        folder: of pictures, for parameters that name one.
    """
    kind: Any = METHODS.get(case.method).params
    wanted = {"steps": _STEPS, "batch": batch, **case.changed, **dict.fromkeys(case.folders, folder)}
    own = {each.name for each in dataclasses.fields(kind)}
    recipe: Params = kind(**{name: value for name, value in wanted.items() if name in own})
    return recipe


def noise_pictures(count: int, side: int) -> Iterator[np.ndarray]:
    """So many pictures, uint8 (side, side, 3): what they show does not matter to a clock."""
    for i in range(count):
        yield np.random.default_rng(i).integers(0, 256, (side, side, 3), dtype=np.uint8)
