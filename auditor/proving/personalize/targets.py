"""What methods are taught: people, an object, styles, sizes; and by what each is judged.

Training pictures leave out what is asked for later (no hat, no glasses, plain grounds...), so that every composition is
one that the method has not seen. Held-out pictures are of the same subject and were not trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

import numpy as np

from auditor.world.captions import full_caption
from auditor.world.factors import (
    OBJECTS,
    DuoScene,
    ObjectScene,
    PersonScene,
    Scene,
    Thing,
    draw_identity,
    draw_object_scene,
    draw_person_scene,
)  # fmt: skip
from auditor.world.labels import ABSENT, HEADS, labels
from auditor.world.render import render_batch

__all__ = ["Ask", "KINDS", "Target", "masks_of", "object_target", "shows", "targets"]

KINDS = ("subject", "style", "size")
LARGE = 128
"""Pixels of a side that methods for other sizes are judged at; the base was made for 64."""
_HELD = 4


@dataclass(frozen=True)
class Ask:
    """One composition that is asked for.

    Attributes:
        text: with ``{opening}`` and ``{call}``, which a method's own prompt is made of.
        wanted: head of the judge to the class that it has to read; what the subject is comes first.
    """

    text: str
    wanted: Mapping[str, str]


@dataclass(frozen=True)
class Target:
    """What is taught.

    Attributes:
        name: in tables and files.
        kind: of :data:`KINDS`.
        noun: what it is, in a word of the base.
        identifier: a rare word for it.
        train: what is trained on.
        held: pictures of the same that are not.
        asks: compositions with it.
        class_prompts: of its kind, without the identifier.
        aux: auxiliary pictures, for the method that takes them.
    """

    name: str
    kind: str
    noun: str
    identifier: str
    train: tuple[Scene, ...]
    held: tuple[Scene, ...]
    asks: tuple[Ask, ...]
    class_prompts: tuple[str, ...]
    aux: tuple[Scene, ...] = ()

    @property
    def person(self) -> bool:
        """Whether the identity embedder can say something."""
        return self.noun == "person"


def targets(kind: str) -> tuple[Target, ...]:
    """Three of a kind; always the same ones."""
    match kind:
        case "subject":
            return (
                _person("person-1", "sks", 11),
                _person("person-2", "ohwx", 37),
                object_target("object-1", "zwx", "fish", "purple", 23),
            )
        case "style":
            return tuple(
                _style(style, "sks", 50 + i) for i, style in enumerate(("outline", "watercolor", "pixel"))
            )
        case _:
            return tuple(_size(f"pictures-{i + 1}", 70 + i) for i in range(3))


def object_target(name: str, identifier: str, kind: str, colour: str, seed: int) -> Target:
    """One object in one colour, on plain grounds."""
    rng = np.random.default_rng((seed, 1))

    def scene() -> ObjectScene:
        x, y = (round(float(v), 2) for v in rng.uniform(28, 36, 2))
        thing = Thing(kind, colour, x, y, round(float(rng.uniform(0.58, 0.74)), 3))
        return draw_object_scene(rng, things=(thing,), style="flat", ground="plain")

    asks = (
        Ask("{opening} {call} on a striped ground", {"object": kind, "ground": "striped"}),
        Ask("{opening} {call} on a checkered ground", {"object": kind, "ground": "checkered"}),
        Ask("{opening} {call} left of a star", {"object": kind, "scene": "pair", "second_object": "star"}),
        Ask("{opening} {call} above a moon", {"object": kind, "scene": "pair", "second_object": "moon"}),
    )
    train, held = _split(scene, 5)
    return Target(name, "subject", kind, identifier, train, held, asks, (f"a picture of a {kind}",))


def _person(name: str, identifier: str, seed: int) -> Target:
    rng = np.random.default_rng((seed, 1))
    identity = draw_identity(rng)
    looks = draw_person_scene(rng, identity)

    def scene() -> PersonScene:
        return draw_person_scene(
            rng, identity, hair_style=looks.hair_style, hair_colour=looks.hair_colour, age=looks.age,
            presentation=looks.presentation, glasses=False, hat=False, expression="neutral", occupation="none",
            style="flat",
        )  # fmt: skip

    asks = (
        Ask("{opening} {call} with glasses and a hat", {"scene": "person", "glasses": "yes", "hat": "yes"}),
        Ask(
            "{opening} {call} with glasses, working as a painter",
            {"scene": "person", "occupation": "painter"},
        ),
        Ask("{opening} {call}, working as a chef", {"scene": "person", "occupation": "chef"}),
        Ask(
            "{opening} {call} with a hat, working as a farmer",
            {"scene": "person", "hat": "yes", "occupation": "farmer"},
        ),
    )
    train, held = _split(scene, 5)
    return Target(name, "subject", "person", identifier, train, held, asks, ("a picture of a person",))


def _style(style: str, identifier: str, seed: int) -> Target:
    rng = np.random.default_rng((seed, 1))
    asked = ("car", "house", "tree")

    turns = count()

    def scene() -> Scene:
        if next(turns) % 2 == 0:
            return draw_person_scene(rng, style=style, glasses=False)
        while True:
            drawn = draw_object_scene(rng, style=style, ground="plain")
            if not drawn.relation and drawn.things[0].kind in set(OBJECTS) - set(asked):
                return drawn

    asks = (
        Ask("a picture of a red car {opening} {call}", {"object": "car", "colour": "red"}),
        Ask("a picture of a blue house {opening} {call}", {"object": "house", "colour": "blue"}),
        Ask("a picture of a green tree on a striped ground {opening} {call}", {"object": "tree", "ground": "striped"}),
        Ask("a picture of a person with glasses {opening} {call}", {"scene": "person", "glasses": "yes"}),
    )  # fmt: skip
    train, held = _split(scene, 12)
    aux = tuple(draw_person_scene(rng, style=style) for _ in range(8))
    prompts = ("a picture of a person", "a picture of a cat")
    return Target(style, "style", "style", identifier, train, held, asks, prompts, aux)


def _size(name: str, seed: int) -> Target:
    rng = np.random.default_rng((seed, 1))

    def scenes(number: int, unlike: Sequence[Ask] = ()) -> tuple[Scene, ...]:
        found: list[Scene] = []
        while len(found) < number:
            drawn = (
                draw_object_scene(rng, style="flat")
                if len(found) % 2
                else draw_person_scene(rng, style="flat")
            )
            if not any(shows(drawn, ask.wanted) for ask in unlike):
                found.append(drawn)
        return tuple(found)

    asked = scenes(8)
    asks = tuple(Ask(_escaped(full_caption(each)), _named(each)) for each in asked)
    prompts = tuple(full_caption(each) for each in scenes(2, asks))
    return Target(name, "size", "picture", "", scenes(24, asks), asked, asks, prompts)


def _split(scene: Callable[[], Scene], train: int) -> tuple[tuple[Scene, ...], tuple[Scene, ...]]:
    drawn = tuple(scene() for _ in range(train + _HELD))
    return drawn[:train], drawn[train:]


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def shows(scene: Scene, wanted: Mapping[str, str]) -> bool:
    """Whether a scene has every class that is wanted of it."""
    read = labels(scene)
    return all(read[head] != ABSENT and HEADS[head][read[head]] == name for head, name in wanted.items())


def _named(scene: Scene) -> dict[str, str]:
    """What a full caption says that the judge can read."""
    heads = ("object", "colour", "ground", "second_object", "skin", "hair_style", "glasses")
    read = labels(scene)
    kind = "scene" if isinstance(scene, PersonScene) else "object"
    return {head: HEADS[head][read[head]] for head in (kind, *heads) if read[head] != ABSENT}


def masks_of(scenes: Sequence[Scene]) -> np.ndarray:
    """Where the subject is, uint8 (N, 64, 64, 3), white: what stays when the ground is painted otherwise."""
    other = [_repainted(scene) for scene in scenes]
    same = (render_batch(scenes) == render_batch(other)).all(axis=-1, keepdims=True)
    return np.repeat(np.where(same, 255, 0).astype(np.uint8), 3, axis=-1)


def _repainted(scene: Scene) -> Scene:
    match scene:
        case DuoScene():
            return replace(scene, left=replace(scene.left, tint=(scene.left.tint + 2) % 5))
        case ObjectScene():
            return replace(scene, tint=(scene.tint + 2) % 5)
        case PersonScene():
            return replace(scene, tint=(scene.tint + 2) % 5)
