"""The object classes: one function each, a unit design scaled to a size in pixels."""

from __future__ import annotations

import math
from collections.abc import Callable

from auditor.world.draw.canvas import Canvas, Colour, darker, lighter

__all__ = ["DESIGNS", "draw_object"]

Design = Callable[[Canvas, float, float, float, Colour], None]
DESIGNS: dict[str, Design] = {}


def draw_object(canvas: Canvas, kind: str, colour: Colour, x: float, y: float, size: float) -> None:
    """Draws ``kind`` around (x, y), ``size`` pixels across. Raises ``KeyError`` for an unknown kind."""
    DESIGNS[kind](canvas, x, y, size / 2, colour)


def _design(kind: str) -> Callable[[Design], Design]:
    def keep(function: Design) -> Design:
        DESIGNS[kind] = function
        return function

    return keep


def _ring(x: float, y: float, radii: list[float], start: float = -90) -> list[tuple[float, float]]:
    step = 360 / len(radii)
    angles = (math.radians(start + i * step) for i in range(len(radii)))
    return [(x + r * math.cos(a), y + r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]


@_design("ball")
def _ball(c: Canvas, x: float, y: float, r: float, hue: Colour) -> None:
    c.ellipse(x, y, r, r, hue)
    c.ellipse(x - r * 0.35, y - r * 0.35, r * 0.26, r * 0.26, lighter(hue, 0.6))


@_design("star")
def _star(c: Canvas, x: float, y: float, r: float, hue: Colour) -> None:
    c.polygon(_ring(x, y + r * 0.08, [r * 1.1, r * 0.45] * 5), hue)


@_design("heart")
def _heart(c: Canvas, x: float, y: float, r: float, hue: Colour) -> None:
    points = []
    for i in range(60):
        t = 2 * math.pi * i / 60
        across = 16 * math.sin(t) ** 3
        up = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((x + r * across / 16, y - r * up / 16))
    c.polygon(points, hue)


@_design("house")
def _house(c: Canvas, x: float, y: float, r: float, hue: Colour) -> None:
    c.rectangle(x - r * 0.75, y - r * 0.15, x + r * 0.75, y + r, hue)
    c.polygon([(x - r, y - r * 0.15), (x, y - r), (x + r, y - r * 0.15)], darker(hue))
    c.rectangle(x - r * 0.2, y + r * 0.35, x + r * 0.2, y + r, (250, 244, 220))


@_design("tree")
def _tree(c: Canvas, x: float, y: float, r: float, hue: Colour) -> None:
    c.rectangle(x - r * 0.15, y + r * 0.45, x + r * 0.15, y + r, (96, 62, 34))
    for top, half in ((-1.0, 0.5), (-0.55, 0.68), (-0.1, 0.85)):
        c.polygon(
            [(x, y + r * top), (x - r * half, y + r * (top + 0.65)), (x + r * half, y + r * (top + 0.65))],
            hue,
        )


@_design("car")
def _car(c: Canvas, x: float, y: float, r: float, hue: Colour) -> None:
    c.polygon(
        [(x - r * 0.6, y), (x - r * 0.35, y - r * 0.5), (x + r * 0.35, y - r * 0.5), (x + r * 0.65, y)],
        darker(hue, 0.25),
    )
    c.rectangle(x - r * 0.3, y - r * 0.4, x + r * 0.25, y - r * 0.05, (226, 240, 250))
    c.rectangle(x - r, y - r * 0.05, x + r, y + r * 0.42, hue, r * 0.15)
    for side in (-0.55, 0.55):
        c.ellipse(x + r * side, y + r * 0.45, r * 0.25, r * 0.25, (30, 30, 34))


@_design("boat")
def _boat(c: Canvas, x: float, y: float, r: float, hue: Colour) -> None:
    c.polygon(
        [
            (x - r, y + r * 0.3),
            (x + r, y + r * 0.3),
            (x + r * 0.55, y + r * 0.85),
            (x - r * 0.55, y + r * 0.85),
        ],
        darker(hue, 0.25),
    )
    c.rectangle(x - r * 0.05, y - r, x + r * 0.05, y + r * 0.3, (96, 62, 34))
    c.polygon([(x + r * 0.12, y - r * 0.9), (x + r * 0.85, y + r * 0.15), (x + r * 0.12, y + r * 0.15)], hue)
    c.polygon(
        [(x - r * 0.12, y - r * 0.6), (x - r * 0.7, y + r * 0.15), (x - r * 0.12, y + r * 0.15)],
        lighter(hue, 0.25),
    )


@_design("fish")
def _fish(c: Canvas, x: float, y: float, r: float, hue: Colour) -> None:
    c.polygon([(x + r * 0.35, y), (x + r, y - r * 0.55), (x + r, y + r * 0.55)], darker(hue, 0.2))
    c.ellipse(x - r * 0.2, y, r * 0.78, r * 0.5, hue)
    c.ellipse(x - r * 0.6, y - r * 0.12, r * 0.12, r * 0.12, (20, 20, 24))


@_design("cat")
def _cat(c: Canvas, x: float, y: float, r: float, hue: Colour) -> None:
    for side in (-1, 1):
        c.polygon(
            [
                (x + side * r * 0.8, y - r),
                (x + side * r * 0.82, y - r * 0.1),
                (x + side * r * 0.15, y - r * 0.5),
            ],
            hue,
        )
    c.ellipse(x, y + r * 0.15, r * 0.88, r * 0.78, hue)
    for side in (-1, 1):
        c.ellipse(x + side * r * 0.36, y, r * 0.15, r * 0.18, (20, 20, 24))
        c.line([(x + side * r * 0.3, y + r * 0.42), (x + side * r * 0.98, y + r * 0.34)], (30, 30, 34), 0.8)
    c.polygon(
        [(x - r * 0.12, y + r * 0.28), (x + r * 0.12, y + r * 0.28), (x, y + r * 0.45)], (250, 160, 170)
    )


@_design("flower")
def _flower(c: Canvas, x: float, y: float, r: float, hue: Colour) -> None:
    c.rectangle(x - r * 0.07, y, x + r * 0.07, y + r, (52, 120, 56))
    for px, py in _ring(x, y - r * 0.3, [r * 0.42] * 5):
        c.ellipse(px, py, r * 0.3, r * 0.3, hue)
    c.ellipse(x, y - r * 0.3, r * 0.24, r * 0.24, (252, 236, 150))


@_design("cup")
def _cup(c: Canvas, x: float, y: float, r: float, hue: Colour) -> None:
    c.arc(x + r * 0.55, y, r * 0.42, r * 0.42, 0, 360, darker(hue, 0.2), max(1.5, r * 0.16))
    c.polygon(
        [
            (x - r * 0.85, y - r * 0.7),
            (x + r * 0.55, y - r * 0.7),
            (x + r * 0.4, y + r * 0.8),
            (x - r * 0.7, y + r * 0.8),
        ],
        hue,
    )
    c.ellipse(x - r * 0.15, y - r * 0.7, r * 0.7, r * 0.18, darker(hue, 0.45))


@_design("moon")
def _moon(c: Canvas, x: float, y: float, r: float, hue: Colour) -> None:
    outer = [
        (x + r * math.cos(math.radians(a)), y + r * math.sin(math.radians(a))) for a in range(50, 311, 10)
    ]
    inner = [
        (x + r * 0.36 + r * 0.78 * math.cos(math.radians(a)), y + r * 0.98 * 0.78 * math.sin(math.radians(a)))
        for a in range(295, 64, -10)
    ]
    c.polygon(outer + inner, hue)


@_design("mushroom")
def _mushroom(c: Canvas, x: float, y: float, r: float, hue: Colour) -> None:
    c.rectangle(x - r * 0.28, y - r * 0.1, x + r * 0.28, y + r, (246, 236, 214), r * 0.18)
    c.pie(x, y + r * 0.05, r, r, 180, 360, hue)
    for dx, dy, s in ((-0.5, -0.3, 0.15), (0.05, -0.6, 0.17), (0.5, -0.25, 0.14)):
        c.ellipse(x + r * dx, y + r * dy, r * s, r * s, (252, 250, 240))


@_design("umbrella")
def _umbrella(c: Canvas, x: float, y: float, r: float, hue: Colour) -> None:
    c.rectangle(x - r * 0.05, y - r * 0.1, x + r * 0.05, y + r * 0.8, (60, 48, 40))
    c.arc(x + r * 0.17, y + r * 0.78, r * 0.2, r * 0.2, 0, 180, (60, 48, 40), max(1.0, r * 0.1))
    c.pie(x, y + r * 0.05, r, r, 180, 360, hue)
    for dx in (-0.66, 0.0, 0.66):
        c.ellipse(x + r * dx, y + r * 0.05, r * 0.33, r * 0.16, lighter(hue, 0.4))


@_design("emblem")
def _emblem(c: Canvas, x: float, y: float, r: float, hue: Colour) -> None:
    c.polygon(_ring(x, y, [r] * 8, start=22.5), hue)
    c.ellipse(x, y, r * 0.66, r * 0.66, (250, 248, 240))
    for turn in (0, 120, 240):
        c.polygon(_ring(x, y, [r * 0.6, r * 0.14, r * 0.1], start=turn - 90), darker(hue, 0.3))


@_design("baton")
def _baton(c: Canvas, x: float, y: float, r: float, hue: Colour) -> None:
    c.line([(x - r * 0.75, y + r * 0.75), (x + r * 0.75, y - r * 0.75)], hue, max(2.0, r * 0.3))
    c.line([(x - r * 0.75, y + r * 0.75), (x - r * 0.35, y + r * 0.35)], (40, 36, 40), max(2.4, r * 0.38))
    c.ellipse(x + r * 0.78, y - r * 0.78, r * 0.24, r * 0.24, darker(hue, 0.3))
