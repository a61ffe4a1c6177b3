"""Contact sheets: a row a training; every picture was drawn by what the method saved."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from auditor.errors import MalformedArtifact
from auditor.proving.personalize.unit import TILE
from auditor.text import inert

__all__ = ["Line", "compose", "line_of"]

_COLUMNS = ("reference", "base, same prompt", "trained", "trained", "trained")
_LABEL, _GAP, _TEXT, _HEAD = 210, 8, 42, 26
_COLOURS = 160
"""Of the palette: what keeps a sheet of all methods below 400 kB."""


@dataclass(frozen=True)
class Line:
    """One row: what it is called, five pictures, uint8 (128, 128, 3) each, and the prompts of the last three."""

    title: str
    subtitle: str
    tiles: tuple[np.ndarray, ...]
    captions: tuple[str, ...]


def line_of(record: Mapping[str, Any], strip: Path) -> Line:
    """The row of a unit's record, its pictures cut from the strip beside it.

    Raises:
        MalformedArtifact: the strip is not there, or is none.
    """
    try:
        with Image.open(strip, formats=("PNG",)) as opened:
            pixels = np.asarray(opened.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise MalformedArtifact(
            f"'{inert(strip.name)}' is no strip of pictures; remove it and its record"
        ) from error
    if pixels.shape != (TILE, TILE * len(_COLUMNS), 3):
        raise MalformedArtifact(f"'{inert(strip.name)}' is no strip of pictures; remove it and its record")
    tiles = tuple(np.split(pixels, len(_COLUMNS), axis=1))
    subtitle = f"{record['target']}, seed {record['seed']}\n{record['cost']['steps']} steps"
    return Line(record["method"], subtitle, tiles, tuple(record["captions"]))


def compose(lines: Sequence[Line]) -> bytes:
    """A PNG, 898 pixels wide, of rows under common heads; colours are reduced to a palette."""
    width = _LABEL + len(_COLUMNS) * (TILE + _GAP) + _GAP
    height = _HEAD + len(lines) * (TILE + _TEXT + _GAP)
    sheet = Image.new("RGB", (width, height), (250, 250, 248))
    pen = ImageDraw.Draw(sheet)
    for i, head in enumerate(_COLUMNS):
        pen.text((_left(i), 6), head, fill=(90, 90, 96), font=ImageFont.load_default(13))
    for i, line in enumerate(lines):
        _draw(sheet, pen, line, _HEAD + i * (TILE + _TEXT + _GAP))
    data = io.BytesIO()
    sheet.quantize(_COLOURS, dither=Image.Dither.NONE).save(data, "PNG", optimize=True)
    return data.getvalue()


def _draw(sheet: Image.Image, pen: ImageDraw.ImageDraw, line: Line, top: int) -> None:
    title, small, caption = (ImageFont.load_default(size) for size in (15, 12, 11))
    pen.text((_GAP, top + 40), _plain(line.title), fill=(20, 20, 24), font=title)
    pen.multiline_text((_GAP, top + 62), _plain(line.subtitle), fill=(90, 90, 96), font=small, spacing=3)
    for i, tile in enumerate(line.tiles):
        sheet.paste(Image.fromarray(tile), (_left(i), top))
    for i, text in enumerate(line.captions, start=2):
        wrapped = "\n".join(textwrap.wrap(_plain(text), 23)[:3])
        pen.multiline_text((_left(i), top + TILE + 2), wrapped, fill=(70, 70, 76), font=caption, spacing=1)


def _left(column: int) -> int:
    return _LABEL + column * (TILE + _GAP)


def _plain(text: str) -> str:
    return text.encode("ascii", "replace").decode()
