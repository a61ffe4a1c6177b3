"""How each method is run on the embedded world: one table.

Steps are those at which the subject is learnt here, within minutes on one core; tables say what share of a method's
default they are. Methods' own defaults are for bases of ordinary size and stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from auditor.errors import UsageError
from auditor.proving.personalize.targets import Target
from auditor.registry import METHODS
from auditor.text import did_you_mean, inert

__all__ = ["RECIPES", "SAMPLER_STEPS", "Recipe", "chosen", "params_of", "prompt_of"]

SAMPLER_STEPS = 8
"""DDIM steps of every picture; vectors by sampler step are learned for as many."""


@dataclass(frozen=True)
class Recipe:
    """One method's line.

    Attributes:
        kind: what it is taught; see :data:`auditor.proving.personalize.targets.KINDS`.
        changes: parameters that differ from the method's defaults.
        opening: how its own prompt begins.
        call: what its own prompt says of the target, with ``{identifier}`` and ``{noun}``.
        untrained: the same before training: a learned word reads as the word that it starts from.
        pictures: how many are trained on; 0 for all.
        seconds: of one training on one core, about; for the time that is left.
        note: what a reader of its row has to know.
        keeps: parameters that are left at their defaults although something could be said of the target.
    """

    kind: str
    changes: Mapping[str, Any]
    opening: str = "a picture of"
    call: str = "{identifier} {noun}"
    untrained: str = ""
    pictures: int = 0
    seconds: float = 20.0
    note: str = ""
    keeps: tuple[str, ...] = ()

    def own(self, target: Target, *, trained: bool = True) -> dict[str, str]:
        """``opening`` and ``call`` for a target, as prompts are made of them."""
        text = self.call if trained or not self.untrained else self.untrained
        return {"opening": self.opening, "call": text.format(identifier=target.identifier, noun=target.noun)}


_PRIOR = "With prior preservation."
_SAMPLER = "Diffusers has no place for its file; drawn from the file by the method's own sampler."


def _word(changes: Mapping[str, Any], note: str = "", seconds: float = 25.0) -> Recipe:
    """A method that learns a word for the whole subject, starting from its noun."""
    return Recipe("subject", changes, call="<subject>", untrained="{noun}", note=note, seconds=seconds)


RECIPES: dict[str, Recipe] = {
    "dreambooth": Recipe("subject", {"steps": 160, "lr": 2e-4, "class_images": 12}, note=_PRIOR, seconds=33),
    "dreambooth-lora": Recipe("subject", {"steps": 200, "lr": 2e-3}, note=_PRIOR, seconds=40),
    "diffusekrona": Recipe("subject", {"steps": 200, "lr": 5e-3}, seconds=22),
    "orthogonal-adaptation": Recipe("subject", {"steps": 200, "lr": 2e-3}, seconds=23),
    "classdiffusion": Recipe(
        "subject",
        {"steps": 200, "lr": 1e-3},
        opening="a photo of",
        call="a <new1> {noun}",
        untrained="a ktn {noun}",
        keeps=("init",),
        seconds=25,
    ),
    "textual-inversion": _word({"steps": 300, "lr": 2e-2, "vectors": 2}, seconds=32),
    "cross-initialization": _word({"steps": 200, "lr": 2e-2}, seconds=21),
    "prospect": _word({"steps": 300, "lr": 1e-3}, _SAMPLER, seconds=30),
    "sefi": _word({"steps": 200, "lr": 2e-2}, _SAMPLER, seconds=32),
    "hifi": Recipe(
        "subject",
        {"steps": 200, "lr": 2e-2, "sampler_steps": SAMPLER_STEPS, "refine": 10},
        call="a {noun}",
        note=f"With masks of the subject, and without pasting a picture. {_SAMPLER}",
        seconds=27,
    ),
    "sine": Recipe(
        "subject",
        {"steps": 200, "lr": 2e-4},
        pictures=1,
        note="One picture. Drawn together with its base, as the method means it; drift is that of its model alone.",
    ),
    "styleforge": Recipe(
        "style",
        {"steps": 120, "lr": 2e-4},
        opening="in",
        call="{identifier} style",
        note="Twelve pictures of the style, with eight auxiliary ones of people.",
        seconds=25,
    ),
    "sigstyle": Recipe(
        "style",
        {"steps": 200},
        opening="in",
        call="the style of <look>",
        untrained="the style of style",
        pictures=1,
        note="One picture. Drawn from noise; the layout of a content picture is not kept.",
        seconds=22,
    ),
    "resadapter": Recipe(
        "size",
        {"steps": 120, "lr": 3e-3},
        opening="",
        call="",
        keeps=("prompt",),
        note="Ordinary pictures at other sizes. Drawn at twice the base's size; likeness is to the render of the same "
        "caption, drift is at the base's own size.",
        seconds=25,
    ),
}


def chosen(names: str) -> list[str]:
    """Methods of a list with commas, in the order of the table; all of them for an empty one.

    Raises:
        UsageError: one is not in the table.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in RECIPES:
            raise UsageError(f"there is no recipe for method '{inert(name)}'{did_you_mean(name, RECIPES)}")
    return [name for name in RECIPES if not wanted or name in wanted]


def prompt_of(recipe: Recipe, target: Target, *, trained: bool = True) -> str:
    """The method's own prompt for a target."""
    said = recipe.own(target, trained=trained)
    start = "a picture " if target.kind == "style" else ""
    return f"{start}{said['opening']} {said['call']}".strip()


def params_of(method: str, target: Target, seed: int, folders: Mapping[str, Path]) -> Any:
    """A method's parameters for a target: what has to be said of it, then the table's changes.

    Args:
        method: its id.
        target: what it is taught.
        seed: of the training.
        folders: of masks and auxiliary pictures.
    """
    recipe = RECIPES[method]
    defaults = METHODS.get(method).params()
    said: dict[str, Any] = {
        "prompt": prompt_of(recipe, target),
        "class_prompt": f"a picture of a {target.noun}",
        "class_word": target.noun,
        "init": target.noun,
        "reference": target.noun,
        **folders,
    }
    if isinstance(getattr(defaults, "init", None), tuple):
        said["init"] = (target.noun,)
    own = {each.name for each in fields(defaults)} - set(recipe.keeps)
    told = {name: value for name, value in said.items() if name in own}
    return replace(defaults, **told | dict(recipe.changes) | {"seed": seed})
