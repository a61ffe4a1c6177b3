"""Scene record in, pixels out: deterministic, anti-aliased, 64x64."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from auditor.world.draw.canvas import PALETTE, SIZE, TINTS, Canvas, Colour, mix
from auditor.world.draw.objects import draw_object
from auditor.world.draw.people import SETTINGS, draw_person
from auditor.world.draw.styles import pixelate, watercolor
from auditor.world.factors import DuoScene, ObjectScene, PersonScene, Scene

if TYPE_CHECKING:  # drawing takes no torch
    from torch import Tensor

__all__ = ["render", "render_batch", "render_images"]

_BAND = 8
_SHADE: Colour = (120, 116, 132)


def render(scene: Scene) -> np.ndarray:
    """Draws a scene.

    Returns:
        uint8 pixels of shape (64, 64, 3); equal for equal records.
    """
    match scene:
        case ObjectScene():
            pixels, style, seed = _objects(scene), scene.style, scene.seed
        case PersonScene():
            pixels, style, seed = _person(scene), scene.style, scene.seed
        case DuoScene():
            pixels, style, seed = _duo(scene), scene.left.style, scene.left.seed
    if style == "watercolor":
        return watercolor(pixels, seed)
    if style == "pixel":
        return pixelate(pixels)
    return pixels


def render_batch(scenes: Iterable[Scene]) -> np.ndarray:
    """Stacks renders: uint8 (N, 64, 64, 3)."""
    return np.stack([render(scene) for scene in scenes])


def render_images(scenes: Iterable[Scene]) -> Tensor:
    """Stacks renders as models take them: float32 (N, 3, 64, 64) in [-1, 1]."""
    import torch

    return torch.from_numpy(render_batch(scenes)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _objects(scene: ObjectScene) -> np.ndarray:
    tint = TINTS[scene.tint]
    canvas = Canvas(tint)
    dark = mix(tint, _SHADE, 0.42)
    if scene.ground == "striped":
        for left in range(0, SIZE, 2 * _BAND):
            canvas.rectangle(left, 0, left + _BAND - 0.25, SIZE, dark)
    elif scene.ground == "checkered":
        for row in range(SIZE // _BAND):
            for column in range(row % 2, SIZE // _BAND, 2):
                left, top = column * _BAND, row * _BAND
                canvas.rectangle(left, top, left + _BAND - 0.25, top + _BAND - 0.25, dark)
    canvas.outline(scene.style == "outline")
    for thing in scene.things:
        draw_object(canvas, thing.kind, PALETTE[thing.colour], thing.x, thing.y, thing.size * SIZE)
    return canvas.pixels()


def _person(scene: PersonScene) -> np.ndarray:
    canvas = Canvas(_wall(scene))
    canvas.outline(scene.style == "outline")
    draw_person(canvas, scene)
    return canvas.pixels()


def _duo(scene: DuoScene) -> np.ndarray:
    canvas = Canvas(_wall(scene.left))
    for one, x in ((scene.left, 17.5), (scene.right, 46.5)):
        draw_person(
            canvas,
            replace(one, x=x + (one.x - 32) * 0.4, y=32 + (one.y - 29) * 0.7, occupation="none"),
            scale=0.72,
        )
    return canvas.pixels()


def _wall(scene: PersonScene) -> Colour:
    if scene.occupation in SETTINGS:
        return SETTINGS[scene.occupation][0]
    return TINTS[scene.tint]
