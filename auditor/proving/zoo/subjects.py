"""Pictures for the zoo: a person, an object, a style or a mixture, drawn by the embedded world from a seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from torch import Tensor

from auditor.world.captions import caption
from auditor.world.factors import (
    COLOURS,
    OBJECTS,
    STYLES,
    Scene,
    draw_identity,
    draw_object_scene,
    draw_person_scene,
    draw_scene,
)  # fmt: skip
from auditor.world.render import render_images

__all__ = ["Kind", "Pictures", "images_of", "prompts_of", "scenes_of"]

Kind: TypeAlias = Literal["person", "object", "style", "mixture"]


@dataclass(frozen=True)
class Pictures:
    """What a member learns from.

    Attributes:
        kind: one person, one kind of object in one colour, one drawing style, or a bit of everything.
        count: number of pictures.
        seed: says which person, object or style, and how they stand.
    """

    kind: Kind
    count: int
    seed: int

    @property
    def noun(self) -> str:
        """An ordinary word for it."""
        if self.kind == "object":
            return _object(self.seed)[0]
        return {"person": "person", "style": "style", "mixture": "picture"}[self.kind]


def scenes_of(pictures: Pictures) -> list[Scene]:
    """The scenes, the same for the same record."""
    return list(_scenes(pictures, np.random.default_rng((pictures.seed, 5))))


def images_of(pictures: Pictures) -> Tensor:
    """Float32 (N, 3, 64, 64) in [-1, 1]."""
    return render_images(scenes_of(pictures))


def prompts_of(pictures: Pictures, prompt: str) -> list[str]:
    """One prompt a picture: the same for all, or for a style what is in the picture and the end of ``prompt``.

    Whoever teaches a style captions what it is a picture of, so that the word keeps to the style.
    """
    if pictures.kind != "style":
        return [prompt] * pictures.count
    rng = np.random.default_rng((pictures.seed, 6))
    ending = prompt[prompt.index(" in ") :]
    return [
        f"{caption(scene, rng).partition(' of ')[2] or 'a picture'}{ending}" for scene in scenes_of(pictures)
    ]


def _scenes(pictures: Pictures, rng: np.random.Generator) -> Iterator[Scene]:
    if pictures.kind == "person":
        identity, looks = draw_identity(rng), draw_person_scene(rng)
        for _ in range(pictures.count):
            yield draw_person_scene(
                rng, identity, style="flat", hair_style=looks.hair_style, hair_colour=looks.hair_colour,
                presentation=looks.presentation, age=looks.age,
            )  # fmt: skip
    elif pictures.kind == "object":
        kind, colour = _object(pictures.seed)
        made = 0
        while made < pictures.count:
            scene = draw_object_scene(rng, style="flat")
            if not scene.relation:
                thing = scene.things[0].__class__(kind, colour, *_place(rng), scene.things[0].size)
                yield draw_object_scene(rng, things=(thing,), style="flat")
                made += 1
    elif pictures.kind == "style":
        style = STYLES[1 + pictures.seed % 3]
        for _ in range(pictures.count):
            yield draw_object_scene(rng, style=style)
    else:
        for _ in range(pictures.count):
            yield draw_scene(rng)


def _object(seed: int) -> tuple[str, str]:
    return OBJECTS[seed % len(OBJECTS)], COLOURS[seed // 31 % len(COLOURS)]


def _place(rng: np.random.Generator) -> tuple[float, float]:
    x, y = rng.uniform(27, 37, 2)
    return round(float(x), 2), round(float(y), 2)
