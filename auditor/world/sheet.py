"""A contact sheet: renders beside what the embedded model makes of the same captions."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from auditor.errors import OutputError
from auditor.world.captions import full_caption
from auditor.world.embedded import embedded_pipeline, guidance_of
from auditor.world.factors import DuoScene, Scene, draw_object_scene, draw_person_scene
from auditor.world.render import render_batch
from auditor.world.sampling import sample

__all__ = ["compose_sheet", "sheet_scenes", "world_sheet"]

_COLUMNS = 6
_SIDE = 96
_GAP = 8
_TEXT = 46


def sheet_scenes(seed: int) -> list[Scene]:
    """36 scenes: two rows of objects, three of people, one of mixed styles with a duo at its end."""
    rng = np.random.default_rng(seed)
    objects = [draw_object_scene(rng, style="flat") for _ in range(2 * _COLUMNS)]
    people = [draw_person_scene(rng, style="flat") for _ in range(3 * _COLUMNS)]
    styles = ("outline", "watercolor", "pixel")
    mixed: list[Scene] = [draw_object_scene(rng, style=style) for style in styles]
    mixed += [draw_person_scene(rng, style=style) for style in styles[:2]]
    duo = DuoScene(*(draw_person_scene(rng, style="flat", occupation="none") for _ in range(2)))
    return [*objects, *people, *mixed, duo]


def world_sheet(path: Path, seed: int = 0, pipeline: Any = None, folder: Path | None = None) -> Path:
    """Draws the scenes of ``seed``, samples their captions at the shipped guidance, writes a PNG to ``path``.

    In each cell the render is on the left and the sample on the right, with the caption beneath.

    Raises:
        BaseUnavailable: The embedded weights are not there.
        OutputError: ``path`` cannot be written.
    """
    scenes = sheet_scenes(seed)
    captions = [full_caption(scene) for scene in scenes]
    pipeline = pipeline or embedded_pipeline(folder=folder)
    samples = sample(pipeline, captions, seed, guidance=guidance_of(folder))
    sheet = compose_sheet(render_batch(scenes), samples, captions)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path, format="PNG")
    except OSError as error:
        raise OutputError(f"The sheet could not be written to {path.name}: {error.strerror}.") from error
    return path


def compose_sheet(renders: np.ndarray, samples: np.ndarray, captions: list[str]) -> Image.Image:
    """Pairs of pictures, uint8 (N, H, W, 3) each, in a grid of six columns with their captions."""
    width, height = 2 * _SIDE + 2 + _GAP, _SIDE + _TEXT + _GAP
    rows = -(-len(captions) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * width + _GAP, rows * height + _GAP), (252, 252, 252))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    for i, (render, made, caption) in enumerate(zip(renders, samples, captions, strict=True)):
        left, top = _GAP + i % _COLUMNS * width, _GAP + i // _COLUMNS * height
        for picture, x in ((render, left), (made, left + _SIDE + 2)):
            sheet.paste(Image.fromarray(picture).resize((_SIDE, _SIDE), Image.Resampling.LANCZOS), (x, top))
        lines = textwrap.wrap(caption, 38)[:4]
        pen.multiline_text((left, top + _SIDE + 2), "\n".join(lines), fill=(40, 40, 44), font=font, spacing=1)
    return sheet
