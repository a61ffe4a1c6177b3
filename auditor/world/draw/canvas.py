"""A 64x64 canvas drawn at four times its size and averaged down, which is the anti-aliasing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

__all__ = ["SIZE", "Canvas", "Colour", "PALETTE", "TINTS", "darker", "lighter", "mix"]

SIZE = 64
_SCALE = 4
Colour = tuple[int, int, int]

PALETTE: dict[str, Colour] = {
    "red": (214, 40, 40), "orange": (247, 132, 28), "yellow": (250, 214, 40), "green": (46, 150, 62),
    "cyan": (60, 200, 214), "blue": (38, 82, 200), "purple": (126, 52, 168), "pink": (246, 130, 184),
    "brown": (122, 76, 40), "gray": (128, 130, 136),
}  # fmt: skip
TINTS: tuple[Colour, ...] = (
    (246, 240, 226),
    (226, 238, 246),
    (232, 244, 228),
    (244, 230, 238),
    (240, 240, 240),
)


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """``one`` with ``share`` ([0, 1]) of ``other``."""
    r, g, b = (round(x * (1 - share) + y * share) for x, y in zip(one, other, strict=True))
    return (r, g, b)


def darker(colour: Colour, share: float = 0.35) -> Colour:
    """Mixes in near-black."""
    return mix(colour, (20, 16, 24), share)


def lighter(colour: Colour, share: float = 0.45) -> Colour:
    """Mixes in white."""
    return mix(colour, (255, 255, 255), share)


class Canvas:
    """Shapes in pixel units of the final 64x64 picture; floats welcome.

    After ``outline(True)`` filled shapes become a pale body with a stroke of their own colour.
    """

    def __init__(self, ground: Colour) -> None:
        self._image = Image.new("RGB", (SIZE * _SCALE, SIZE * _SCALE), ground)
        self._pen = ImageDraw.Draw(self._image)
        self._outline = False

    def outline(self, on: bool) -> None:
        """Switches outline drawing for the shapes that follow."""
        self._outline = on

    def ellipse(self, x: float, y: float, rx: float, ry: float, fill: Colour) -> None:
        """An axis-parallel ellipse around (x, y)."""
        box = [(x - rx) * _SCALE, (y - ry) * _SCALE, (x + rx) * _SCALE, (y + ry) * _SCALE]
        self._pen.ellipse(box, **self._paint(fill, min(rx, ry)))

    def polygon(self, points: Sequence[tuple[float, float]], fill: Colour) -> None:
        """A closed polygon."""
        scaled = [(px * _SCALE, py * _SCALE) for px, py in points]
        spread = min(
            max(p[0] for p in points) - min(p[0] for p in points),
            max(p[1] for p in points) - min(p[1] for p in points),
        )
        self._pen.polygon(scaled, **self._paint(fill, spread / 2))

    def rectangle(self, x0: float, y0: float, x1: float, y1: float, fill: Colour, radius: float = 0) -> None:
        """A rectangle with corners of ``radius``."""
        box = [x0 * _SCALE, y0 * _SCALE, x1 * _SCALE, y1 * _SCALE]
        self._pen.rounded_rectangle(box, radius * _SCALE, **self._paint(fill, min(x1 - x0, y1 - y0) / 2))

    def line(self, points: Sequence[tuple[float, float]], fill: Colour, width: float) -> None:
        """A polyline with round joints; ``width`` in pixels."""
        scaled = [(px * _SCALE, py * _SCALE) for px, py in points]
        self._pen.line(scaled, fill=fill, width=max(1, round(width * _SCALE)), joint="curve")

    def arc(
        self, x: float, y: float, rx: float, ry: float, start: float, end: float, fill: Colour, width: float
    ) -> None:
        """Part of an ellipse's rim, degrees clockwise from three o'clock."""
        box = [(x - rx) * _SCALE, (y - ry) * _SCALE, (x + rx) * _SCALE, (y + ry) * _SCALE]
        self._pen.arc(box, start, end, fill=fill, width=max(1, round(width * _SCALE)))

    def pie(self, x: float, y: float, rx: float, ry: float, start: float, end: float, fill: Colour) -> None:
        """A slice of an ellipse, degrees clockwise from three o'clock."""
        box = [(x - rx) * _SCALE, (y - ry) * _SCALE, (x + rx) * _SCALE, (y + ry) * _SCALE]
        self._pen.pieslice(box, start, end, **self._paint(fill, min(rx, ry)))

    def pixels(self) -> np.ndarray:
        """The finished picture: uint8, (64, 64, 3)."""
        return np.asarray(self._image.reduce(_SCALE))

    def _paint(self, fill: Colour, extent: float) -> dict[str, Any]:
        if not self._outline or extent < 1.5:
            return {"fill": fill}
        return {"fill": lighter(fill, 0.82), "outline": fill, "width": round(1.6 * _SCALE)}
