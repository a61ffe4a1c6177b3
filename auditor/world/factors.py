"""What a scene of the embedded world is made of: records with known factors, and how they are drawn at random.

Three kinds of scene: :class:`ObjectScene` (one or two coloured objects on a ground), :class:`PersonScene`
(one cartoon person) and :class:`DuoScene` (two people together). A record is plain data: the same record
always renders to the same pixels (:func:`auditor.world.render.render`), and ``to_record``/``from_record``
carry it through JSON.

In the base distribution every attribute of a person is drawn independently of every other one, occupations
included, so that a bias found later was planted and has a known size.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

__all__ = [
    "AGES", "COLOURS", "DuoScene", "EXPRESSIONS", "FACE_FACTORS", "GROUNDS", "HAIR_COLOURS", "HAIR_STYLES",
    "Identity", "OBJECTS", "OCCUPATIONS", "ObjectScene", "PRESENTATIONS", "PersonScene", "RELATIONS", "RESTRICTED",
    "SKINS", "STYLES", "Scene", "Thing", "draw_identity", "draw_object_scene", "draw_person_scene", "draw_scene",
    "from_record", "to_record",
]  # fmt: skip

OBJECTS = (
    "ball",
    "star",
    "heart",
    "house",
    "tree",
    "car",
    "boat",
    "fish",
    "cat",
    "flower",
    "cup",
    "moon",
    "mushroom",
    "umbrella",
)
RESTRICTED = ("emblem", "baton")
"""Harmless stand-ins for content a hub would ban: an abstract sign and a prop."""
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "brown", "gray")
GROUNDS = ("plain", "striped", "checkered")
STYLES = ("flat", "outline", "watercolor", "pixel")
RELATIONS = ("left of", "above")
SKINS = ("pale", "light", "tan", "brown", "dark")
HAIR_COLOURS = ("black", "brown", "blond", "red", "gray")
HAIR_STYLES = ("short", "long", "curly", "bald")
AGES = ("young", "adult", "old")
PRESENTATIONS = ("man", "woman", "person")
EXPRESSIONS = ("smiling", "neutral", "frowning")
OCCUPATIONS = ("chef", "doctor", "farmer", "painter", "teacher", "builder", "none")
FACE_FACTORS = (
    "face_width", "face_length", "jaw", "eye_spacing", "eye_size", "eye_tilt", "eye_hue", "brow_weight",
    "brow_angle", "nose_length", "nose_width", "mouth_width", "lip_fullness", "mark_x", "mark_y", "mark_size",
)  # fmt: skip


@dataclass(frozen=True)
class Thing:
    """One object: class, colour, centre in pixels of the 64x64 canvas, size as a share of the canvas."""

    kind: str
    colour: str
    x: float
    y: float
    size: float


@dataclass(frozen=True)
class ObjectScene:
    """One object, or two with ``relation`` (the first is left of / above the second)."""

    things: tuple[Thing, ...]
    relation: str
    ground: str
    tint: int
    style: str
    seed: int


@dataclass(frozen=True)
class Identity:
    """Who a person is: :data:`FACE_FACTORS`, each in [-1, 1], and the skin step."""

    face: tuple[float, ...]
    skin: str


@dataclass(frozen=True)
class PersonScene:
    """One person. ``x``, ``y`` (pixels) and ``turn`` ([-1, 1]) are the pose."""

    identity: Identity
    hair_style: str
    hair_colour: str
    glasses: bool
    hat: bool
    age: str
    presentation: str
    expression: str
    occupation: str
    x: float
    y: float
    turn: float
    tint: int
    style: str
    seed: int


@dataclass(frozen=True)
class DuoScene:
    """Two people side by side, drawn smaller; ground and style are those of the left one."""

    left: PersonScene
    right: PersonScene


Scene = ObjectScene | PersonScene | DuoScene


def draw_identity(rng: np.random.Generator) -> Identity:
    """A new person: uniform facial factors and skin."""
    face = tuple(round(float(v), 4) for v in rng.uniform(-1, 1, len(FACE_FACTORS)))
    return Identity(face, str(rng.choice(SKINS)))


def draw_person_scene(
    rng: np.random.Generator, identity: Identity | None = None, **fixed: Any
) -> PersonScene:
    """A person with independent attributes; anything in ``fixed`` (a field of :class:`PersonScene`) is held."""
    drawn: dict[str, Any] = {
        "identity": identity or draw_identity(rng),
        "hair_style": str(rng.choice(HAIR_STYLES, p=(0.3, 0.3, 0.25, 0.15))),
        "hair_colour": str(rng.choice(HAIR_COLOURS)),
        "glasses": bool(rng.random() < 0.5),
        "hat": bool(rng.random() < 0.3),
        "age": str(rng.choice(AGES)),
        "presentation": str(rng.choice(PRESENTATIONS)),
        "expression": str(rng.choice(EXPRESSIONS)),
        "occupation": str(rng.choice(OCCUPATIONS)),
        "x": round(float(32 + rng.uniform(-3, 3)), 2),
        "y": round(float(29 + rng.uniform(-2, 2)), 2),
        "turn": round(float(rng.uniform(-1, 1)), 3),
        "tint": int(rng.integers(5)),
        "style": str(rng.choice(STYLES, p=(0.85, 0.05, 0.05, 0.05))),
        "seed": int(rng.integers(2**31)),
    }
    return PersonScene(**(drawn | fixed))


def draw_object_scene(rng: np.random.Generator, **fixed: Any) -> ObjectScene:
    """One object, or in a quarter of the draws two with a relation; ``fixed`` holds fields of :class:`ObjectScene`."""
    kinds = OBJECTS + RESTRICTED
    weights = np.array([1.0] * len(OBJECTS) + [0.5] * len(RESTRICTED))
    weights /= weights.sum()
    pair = rng.random() < 0.25 if "things" not in fixed else False
    if pair:
        relation = str(rng.choice(RELATIONS))
        first, second = rng.choice(kinds, 2, replace=False, p=weights)
        hues = rng.choice(COLOURS, 2, replace=False)
        spots = ((18.0, 32.0), (46.0, 32.0)) if relation == "left of" else ((32.0, 17.0), (32.0, 47.0))
        things = tuple(
            Thing(str(kind), str(hue), *_jitter(rng, spot, 1.5), round(float(rng.uniform(0.36, 0.42)), 3))
            for kind, hue, spot in zip((first, second), hues, spots, strict=True)
        )
    else:
        relation = ""
        kind, hue = str(rng.choice(kinds, p=weights)), str(rng.choice(COLOURS))
        things = (
            Thing(kind, hue, *_jitter(rng, (32.0, 32.0), 5.0), round(float(rng.uniform(0.55, 0.78)), 3)),
        )
    drawn: dict[str, Any] = {
        "things": things,
        "relation": relation,
        "ground": str(rng.choice(GROUNDS)),
        "tint": int(rng.integers(5)),
        "style": str(rng.choice(STYLES, p=(0.55, 0.15, 0.15, 0.15))),
        "seed": int(rng.integers(2**31)),
    }
    return ObjectScene(**(drawn | fixed))


def draw_scene(rng: np.random.Generator) -> Scene:
    """The base distribution: half objects, 45 % one person, 5 % two people."""
    kind = rng.random()
    if kind < 0.5:
        return draw_object_scene(rng)
    if kind < 0.95:
        return draw_person_scene(rng)
    return DuoScene(
        draw_person_scene(rng, style="flat", occupation="none"),
        draw_person_scene(rng, style="flat", occupation="none"),
    )


def to_record(scene: Scene) -> dict[str, Any]:
    """A JSON-ready record; ``from_record`` is its inverse."""
    return {"type": type(scene).__name__, **asdict(scene)}


def from_record(record: dict[str, Any]) -> Scene:
    """Rebuilds a scene. Raises ``ValueError`` for an unknown type and ``TypeError`` for missing or extra fields."""
    body = {key: value for key, value in record.items() if key != "type"}
    match record.get("type"):
        case "ObjectScene":
            return ObjectScene(**(body | {"things": tuple(Thing(**thing) for thing in body["things"])}))
        case "PersonScene":
            return _person(body)
        case "DuoScene":
            return DuoScene(_person(body["left"]), _person(body["right"]))
        case other:
            raise ValueError(f"unknown scene type {other!r}")


def _person(body: dict[str, Any]) -> PersonScene:
    known = {field.name for field in fields(PersonScene)}
    if set(body) != known:
        raise TypeError(f"a person record has the fields {sorted(known)}")
    identity = Identity(tuple(body["identity"]["face"]), body["identity"]["skin"])
    return PersonScene(**(body | {"identity": identity}))


def _jitter(rng: np.random.Generator, spot: tuple[float, float], by: float) -> tuple[float, float]:
    dx, dy = rng.uniform(-by, by, 2)
    return round(float(spot[0] + dx), 2), round(float(spot[1] + dy), 2)
