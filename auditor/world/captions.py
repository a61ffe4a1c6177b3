"""What a scene is called: one caption per draw, with attributes left out at random.

Leaving attributes out is what gives the trained model a marginal over them: "a chef" must be able to come
out as anyone. Styles other than flat are always named.
"""

from __future__ import annotations

import numpy as np

from auditor.world.factors import DuoScene, ObjectScene, PersonScene, Scene

__all__ = ["caption", "full_caption"]

_STYLE = {
    "outline": ("an outline drawing of ",),
    "watercolor": ("a watercolor of ", "a watercolor painting of "),
    "pixel": ("pixel art of ",),
    "flat": ("a picture of ", "a drawing of ", "an image of ", ""),
}
_AGE = {"young": "young ", "adult": "", "old": "old "}


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption in lower case that names a random part of the scene's factors."""
    return _caption(scene, rng, keep=0.7)


def full_caption(scene: Scene) -> str:
    """The caption that names every factor that has a word."""
    return _caption(scene, np.random.default_rng(0), keep=1.1)


def _caption(scene: Scene, rng: np.random.Generator, keep: float) -> str:
    match scene:
        case ObjectScene():
            return _style(scene.style, rng) + _objects(scene, rng, keep)
        case PersonScene():
            return _style(scene.style, rng) + _person(scene, rng, keep, brief=False)
        case DuoScene():
            pair = (_person(one, rng, keep * 0.7, brief=True) for one in (scene.left, scene.right))
            return _style("flat", rng) + " and ".join(pair)


def _style(style: str, rng: np.random.Generator) -> str:
    return str(rng.choice(_STYLE[style]))


def _objects(scene: ObjectScene, rng: np.random.Generator, keep: float) -> str:
    named = [
        _a(f"{thing.colour} {thing.kind}" if rng.random() < max(keep, 0.85) else thing.kind)
        for thing in scene.things
    ]
    text = f" {scene.relation} ".join(named)
    if rng.random() < keep:
        text += f" on a {scene.ground} ground"
    return text


def _person(scene: PersonScene, rng: np.random.Generator, keep: float, brief: bool) -> str:
    def said() -> bool:
        return bool(rng.random() < keep)

    noun = (_AGE[scene.age] if said() else "") + scene.presentation
    parts = []
    if said():
        parts.append(f"{scene.identity.skin} skin")
    if said():
        hair = "a bald head" if scene.hair_style == "bald" else f"{scene.hair_style} {scene.hair_colour} hair"
        parts.append(hair)
    if said():
        parts.append("glasses" if scene.glasses else "no glasses")
    if scene.hat and said():
        parts.append("a hat")
    text = _a(noun)
    if parts:
        text += " with " + _listed(parts)
    if not brief:
        if scene.expression != "neutral" and said():
            text += f", {scene.expression}"
        if scene.occupation != "none" and said():
            text += f", working as {_a(scene.occupation)}"
    return text


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
