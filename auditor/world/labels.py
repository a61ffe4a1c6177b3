"""Class labels of a scene, for the judges: which factors there are, their classes, and what a record says."""

from __future__ import annotations

import numpy as np

from auditor.world import factors as f

__all__ = ["ABSENT", "HEADS", "labels", "label_matrix"]

ABSENT = -1
"""A factor that this kind of scene does not have."""

HEADS: dict[str, tuple[str, ...]] = {
    "scene": ("object", "pair", "person", "duo"),
    "object": f.OBJECTS + f.RESTRICTED,
    "colour": f.COLOURS,
    "second_object": f.OBJECTS + f.RESTRICTED,
    "second_colour": f.COLOURS,
    "relation": f.RELATIONS,
    "ground": f.GROUNDS,
    "style": f.STYLES,
    "skin": f.SKINS,
    "hair_style": f.HAIR_STYLES,
    "hair_colour": f.HAIR_COLOURS,
    "glasses": ("no", "yes"),
    "hat": ("no", "yes"),
    "age": f.AGES,
    "presentation": f.PRESENTATIONS,
    "expression": f.EXPRESSIONS,
    "occupation": f.OCCUPATIONS,
}


def labels(scene: f.Scene) -> dict[str, int]:
    """Class index per head; :data:`ABSENT` where a factor does not apply or cannot be seen (no hair, no colour)."""
    named: dict[str, str] = {}
    match scene:
        case f.ObjectScene():
            first = scene.things[0]
            named = {
                "scene": "object",
                "object": first.kind,
                "colour": first.colour,
                "ground": scene.ground,
                "style": scene.style,
            }
            if len(scene.things) > 1:
                second = scene.things[1]
                named |= {
                    "scene": "pair",
                    "second_object": second.kind,
                    "second_colour": second.colour,
                    "relation": scene.relation,
                }
        case f.PersonScene():
            named = {
                "scene": "person", "style": scene.style, "skin": scene.identity.skin, "hair_style": scene.hair_style,
                "glasses": "yes" if scene.glasses else "no", "hat": "yes" if scene.hat else "no", "age": scene.age,
                "presentation": scene.presentation, "expression": scene.expression, "occupation": scene.occupation,
            }  # fmt: skip
            if scene.hair_style != "bald":
                named["hair_colour"] = scene.hair_colour
        case f.DuoScene():
            named = {"scene": "duo", "style": scene.left.style}
    return {head: classes.index(named[head]) if head in named else ABSENT for head, classes in HEADS.items()}


def label_matrix(scenes: list[f.Scene]) -> np.ndarray:
    """int64 (N, heads) in the order of :data:`HEADS`."""
    return np.array([list(labels(scene).values()) for scene in scenes], dtype=np.int64)
