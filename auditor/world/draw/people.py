"""Cartoon people: identity from continuous facial factors, attributes from the record."""

from __future__ import annotations

from auditor.world.draw.canvas import Canvas, Colour, darker, lighter, mix
from auditor.world.factors import FACE_FACTORS, PersonScene

__all__ = ["SETTINGS", "draw_person"]

_SKIN: dict[str, Colour] = {
    "pale": (255, 228, 208), "light": (240, 194, 154), "tan": (208, 150, 104), "brown": (150, 98, 62),
    "dark": (84, 54, 38),
}  # fmt: skip
_HAIR: dict[str, Colour] = {
    "black": (30, 26, 32), "brown": (112, 68, 30), "blond": (244, 208, 96), "red": (206, 70, 24),
    "gray": (172, 176, 184),
}  # fmt: skip
SETTINGS: dict[str, tuple[Colour, Colour, Colour]] = {
    # wall, clothes, prop
    "chef": ((250, 226, 170), (250, 250, 250), (196, 60, 50)),
    "doctor": ((196, 232, 228), (246, 252, 252), (220, 50, 60)),
    "farmer": ((190, 224, 160), (60, 92, 170), (150, 104, 50)),
    "painter": ((240, 206, 226), (140, 90, 170), (230, 190, 130)),
    "teacher": ((150, 186, 160), (110, 70, 60), (70, 120, 200)),
    "builder": ((206, 206, 212), (250, 150, 30), (110, 110, 120)),
}


def draw_person(c: Canvas, scene: PersonScene, scale: float = 1.0) -> None:
    """Draws one person at ``scene.x``, ``scene.y`` (the centre of the face); ``scale`` shrinks all."""
    f = dict(zip(FACE_FACTORS, scene.identity.face, strict=True))
    skin = _SKIN[scene.identity.skin]
    hair = _HAIR[scene.hair_colour]
    x, y, s = scene.x, scene.y, scale
    half_w = (13.0 + 2.4 * f["face_width"]) * s
    half_h = (15.5 + 2.0 * f["face_length"]) * s
    _body(c, scene, x, y + half_h, skin, s)
    _back_hair(c, scene, x, y, half_w, half_h, hair, s)
    for side in (-1, 1):
        c.ellipse(x + side * half_w, y + 1 * s, 2.6 * s, 3.6 * s, darker(skin, 0.12))
    _face(c, x, y, half_w, half_h, f["jaw"], skin, s)
    _features(c, scene, x + scene.turn * 2.0 * s, y, half_w, half_h, f, skin, hair, s)
    _front_hair(c, scene, x, y, half_w, half_h, hair, s)
    if scene.hat:
        _hat(c, x, y - half_h, half_w, s)


def _body(c: Canvas, scene: PersonScene, x: float, chin: float, skin: Colour, s: float) -> None:
    _, cloth, prop = SETTINGS.get(scene.occupation, ((0, 0, 0), (92, 112, 140), (0, 0, 0)))
    width = {"man": 23.0, "woman": 18.0, "person": 20.5}[scene.presentation] * s
    c.rectangle(x - 4.5 * s, chin - 4 * s, x + 4.5 * s, chin + 7 * s, darker(skin, 0.15))
    c.rectangle(x - width, chin + 3 * s, x + width, chin + 40 * s, cloth, 8 * s)
    if scene.presentation == "woman":
        c.polygon([(x - 6 * s, chin + 2.6 * s), (x + 6 * s, chin + 2.6 * s), (x, chin + 10 * s)], skin)
    elif scene.presentation == "man":
        c.polygon(
            [
                (x - 2 * s, chin + 4 * s),
                (x + 2 * s, chin + 4 * s),
                (x + 2.6 * s, chin + 14 * s),
                (x - 2.6 * s, chin + 14 * s),
            ],
            darker(cloth, 0.6),
        )
    _prop(c, scene.occupation, prop, s)


def _prop(c: Canvas, occupation: str, hue: Colour, s: float) -> None:
    x, y = 55.0, 53.0
    match occupation:
        case "chef":
            c.rectangle(x - 1, y - 9, x + 1, y + 8, (90, 90, 96))
            c.ellipse(x, y - 9, 4, 4.6, (90, 90, 96))
        case "doctor":
            c.rectangle(x - 6, y - 6, x + 6, y + 6, (255, 255, 255), 1)
            c.rectangle(x - 1.8, y - 5, x + 1.8, y + 5, hue)
            c.rectangle(x - 5, y - 1.8, x + 5, y + 1.8, hue)
        case "farmer":
            c.rectangle(x - 1, y - 10, x + 1, y + 10, hue)
            for dx in (-4, 0, 4):
                c.rectangle(x + dx - 0.8, y - 14, x + dx + 0.8, y - 6, (90, 90, 96))
            c.rectangle(x - 4.8, y - 7, x + 4.8, y - 5.2, (90, 90, 96))
        case "painter":
            c.ellipse(x, y, 7, 6, hue)
            for dx, dy, dot in (
                (-3, -2, (214, 40, 40)),
                (1, -3, (250, 214, 40)),
                (3, 1, (38, 82, 200)),
                (-2, 3, (46, 150, 62)),
            ):
                c.ellipse(x + dx, y + dy, 1.6, 1.6, dot)
        case "teacher":
            c.rectangle(x - 6.5, y - 7, x + 6.5, y + 7, hue, 1)
            c.rectangle(x - 4.5, y - 4, x + 4.5, y - 2, (250, 250, 240))
            c.rectangle(x - 6.5, y - 7, x - 4.8, y + 7, darker(hue))
        case "builder":
            c.rectangle(x - 1.2, y - 6, x + 1.2, y + 9, (150, 100, 50))
            c.rectangle(x - 6, y - 10, x + 5, y - 5, hue)


def _face(c: Canvas, x: float, y: float, w: float, h: float, jaw: float, skin: Colour, s: float) -> None:
    c.ellipse(x, y, w, h, skin)
    if jaw > 0:
        reach = w * (0.62 + 0.28 * jaw)
        c.rectangle(x - reach, y + h * 0.15, x + reach, y + h * 0.96, skin, 5 * s)
    else:
        tip = w * (0.5 + 0.4 * jaw)
        c.polygon(
            [
                (x - w * 0.86, y + h * 0.4),
                (x + w * 0.86, y + h * 0.4),
                (x + tip, y + h * 1.04),
                (x - tip, y + h * 1.04),
            ],
            skin,
        )


def _features(
    c: Canvas,
    scene: PersonScene,
    x: float,
    y: float,
    w: float,
    h: float,
    f: dict[str, float],
    skin: Colour,
    hair: Colour,
    s: float,
) -> None:
    eye_dx = (5.9 + 1.9 * f["eye_spacing"]) * s
    eye_y = y - 1.5 * s
    eye_r = (2.5 + 0.9 * f["eye_size"]) * s
    iris = (
        mix((40, 96, 190), (70, 130, 50), (f["eye_hue"] + 1))
        if f["eye_hue"] < 0
        else mix((70, 130, 50), (96, 54, 20), f["eye_hue"])
    )
    shade = darker(skin, 0.5)
    for side in (-1, 1):
        ex, ey = x + side * eye_dx, eye_y - side * f["eye_tilt"] * 0.9 * s
        c.ellipse(ex, ey, eye_r * 1.25, eye_r, (252, 252, 252))
        c.ellipse(ex + scene.turn * 0.5 * s, ey, eye_r * 0.8, eye_r * 0.85, iris)
        c.ellipse(ex + scene.turn * 0.5 * s, ey, eye_r * 0.4, eye_r * 0.42, (16, 14, 18))
        lift = f["brow_angle"] * 1.8 * s
        brow_y = eye_y - eye_r - 2.4 * s
        brow = darker(hair, 0.3) if scene.age != "old" else (190, 190, 194)
        c.line(
            [(ex - side * 3.6 * s, brow_y - lift * 0.5), (ex + side * 3.6 * s, brow_y + lift)],
            brow,
            (1.5 + 0.9 * f["brow_weight"]) * s,
        )
    nose_y = y + (5.0 + 1.8 * f["nose_length"]) * s
    nose_w = (2.0 + 1.1 * f["nose_width"]) * s
    c.polygon([(x, y), (x + nose_w, nose_y), (x - nose_w, nose_y)], darker(skin, 0.22))
    _mouth(c, scene, x, y + h * 0.62, f, skin, s)
    if scene.age == "old":
        for side in (-1, 1):
            c.line(
                [(x + side * 4.4 * s, nose_y - 0.5 * s), (x + side * 6.6 * s, nose_y + 4 * s)], shade, 0.8 * s
            )
        for dy in (-8.6, -10.6):
            c.line([(x - 5 * s, y + dy * s), (x + 5 * s, y + dy * s)], darker(skin, 0.28), 0.7 * s)
    elif scene.age == "young":
        for side in (-1, 1):
            c.ellipse(x + side * w * 0.62, y + 5.2 * s, 2.6 * s, 1.8 * s, mix(skin, (240, 90, 100), 0.4))
    if f["mark_size"] > -0.4:
        r = (1.0 + 0.7 * f["mark_size"]) * s
        c.ellipse(x + f["mark_x"] * w * 0.66, y + (0.25 + 0.45 * f["mark_y"]) * h, r, r, darker(skin, 0.62))
    if scene.glasses:
        for side in (-1, 1):
            c.arc(x + side * max(eye_dx, 5.2 * s), eye_y, 5.0 * s, 4.4 * s, 0, 360, (24, 24, 30), 1.3 * s)
        c.line([(x - 1.6 * s, eye_y), (x + 1.6 * s, eye_y)], (24, 24, 30), 1.2 * s)


def _mouth(
    c: Canvas, scene: PersonScene, x: float, y: float, f: dict[str, float], skin: Colour, s: float
) -> None:
    half = (4.4 + 1.5 * f["mouth_width"]) * s
    lip = mix(darker(skin, 0.3), (196, 40, 60), 0.55)
    thick = (1.5 + 0.7 * f["lip_fullness"]) * s
    match scene.expression:
        case "smiling":
            c.pie(x, y - 1.8 * s, half * 1.15, 4.6 * s, 10, 170, lip)
            c.pie(x, y - 1.8 * s, half * 0.85, 2.4 * s, 10, 170, (252, 250, 246))
        case "frowning":
            c.arc(x, y + 3.0 * s, half, 3.8 * s, 200, 340, lip, thick + 0.6 * s)
        case _:
            c.ellipse(x, y, half, thick, lip)


def _back_hair(
    c: Canvas, scene: PersonScene, x: float, y: float, w: float, h: float, hair: Colour, s: float
) -> None:
    if scene.hair_style == "long":
        c.rectangle(x - w - 4 * s, y - h * 0.6, x + w + 4 * s, y + h * 1.25, hair, 6 * s)
        c.ellipse(x, y - h * 0.35, w + 4 * s, h * 0.85, hair)
    elif scene.hair_style == "curly":
        for dx, dy in (
            (-1.0, -0.5),
            (-1.12, -0.1),
            (-1.1, 0.28),
            (1.0, -0.5),
            (1.12, -0.1),
            (1.1, 0.28),
            (-0.6, -0.9),
            (0.6, -0.9),
            (0, -1.02),
        ):
            c.ellipse(x + dx * w, y + dy * h, 5.6 * s, 5.6 * s, hair)
    elif scene.hair_style == "short":
        c.ellipse(x, y - h * 0.3, w + 1.5 * s, h * 0.85, hair)


def _front_hair(
    c: Canvas, scene: PersonScene, x: float, y: float, w: float, h: float, hair: Colour, s: float
) -> None:
    if scene.hair_style == "bald":
        c.ellipse(x - w * 0.3, y - h * 0.72, 2.6 * s, 1.4 * s, lighter(_SKIN[scene.identity.skin], 0.4))
        return
    top, line = y - h * 1.08, y - h * 0.52
    fringe = [
        (x - w * 1.02, line + 3.0 * s),
        (x - w * 0.9, top + 5 * s),
        (x - w * 0.45, top),
        (x + w * 0.45, top),
        (x + w * 0.9, top + 5 * s),
    ]
    if scene.hair_style == "curly":
        for dx in (-0.7, -0.25, 0.25, 0.7):
            c.ellipse(x + dx * w, y - h * 0.78, 4.6 * s, 4.2 * s, hair)
    else:
        c.polygon(
            [
                *fringe,
                (x + w * 1.02, line + 3.0 * s),
                (x + w * 0.3, line - 1.5 * s),
                (x - w * 0.35, line - 0.5 * s),
            ],
            hair,
        )


def _hat(c: Canvas, x: float, top: float, w: float, s: float) -> None:
    felt = (56, 44, 110)
    c.rectangle(x - w * 0.78, top - 8 * s, x + w * 0.78, top + 4 * s, felt, 3 * s)
    c.rectangle(x - w * 0.78, top + 0.5 * s, x + w * 0.78, top + 3 * s, (236, 200, 70))
    c.rectangle(x - w * 1.3, top + 3 * s, x + w * 1.3, top + 6.4 * s, felt, 1.5 * s)
