"""The style sheet by numbers: contrast of every pair of colours in use, in every theme, and what a keyboard needs.

Ratios after WCAG 2.2 (relative luminance of sRGB): 4.5 for text, 3 for icons, lines and focus rings that carry
meaning.
"""

import re
from itertools import product
from pathlib import Path

import pytest

import reports.page

STYLE = (Path(reports.page.__file__).parent / "templates" / "style.css").read_text("utf-8")
COLOURS = re.compile(r"--([a-z-]+): (#[0-9a-f]{3,6})\b")
TONES = ("green", "teal", "slate", "amber", "orange", "red")


def theme(opening: str) -> dict[str, str]:
    """The colours of the ``:root`` rule that follows some text of the style sheet."""
    rule = STYLE[STYLE.index(opening) :].partition(":root {")[2].partition("}")[0]
    return dict(COLOURS.findall(rule))


THEMES = {
    "light": theme(":root {"),
    "dark": theme("@media (prefers-color-scheme: dark)"),
    "print": theme("@media print"),
}


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(char * 2 for char in colour[1:])
    channels = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


TEXT = [
    *product(("ink", "soft", "muted", "link"), ("page", "surface", "sunken")),
    *((tone, ground) for tone in TONES for ground in ("page", "surface", "sunken", f"{tone}-bg")),
    # The verdict's explanation and the marked row of the table of decisions stand on the tone's own ground.
    *((text, f"{tone}-bg") for tone in TONES for text in ("ink", "soft")),
]


def test_the_ratio_is_the_one_of_the_standard():
    assert contrast("#000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("name", THEMES)
def test_every_theme_names_every_colour(name):
    assert THEMES[name].keys() == THEMES["light"].keys() >= {"ink", "page", *TONES}


@pytest.mark.parametrize("name", THEMES)
@pytest.mark.parametrize(("text", "ground"), TEXT)
def test_text_can_be_read(name, text, ground):
    colours = THEMES[name]
    assert contrast(colours[text], colours[ground]) >= 4.5, (name, text, ground)


@pytest.mark.parametrize("name", THEMES)
def test_focus_rings_and_drawings_can_be_seen(name):
    colours = THEMES[name]
    for mark, ground in product(("link", "muted", *TONES), ("page", "surface", "sunken")):
        assert contrast(colours[mark], colours[ground]) >= 3


def rules() -> dict[str, str]:
    return {
        selector.strip(): body
        for selectors, body in re.findall(r"([^{}@]+)\{([^{}]*)\}", STYLE)
        for selector in selectors.split(",")
    }


def test_colours_of_text_come_from_the_themes():
    for selector, body in rules().items():
        for value in re.findall(r"(?<![-\w])color: ([^;]+);", body):
            known = value.startswith("var(--") or value in ("inherit", "currentColor", "CanvasText")
            assert known, f"{selector}: {value}"


@pytest.mark.parametrize("element", ["a", "summary", "pre", "ul"])
def test_whatever_takes_the_focus_shows_it(element):
    assert "outline: 2px solid var(--link)" in rules()[f"{element}:focus-visible"]


def test_nothing_takes_the_outline_away():
    assert not re.search(r"outline: *(none|0)", STYLE)


def test_text_is_never_smaller_than_twelve_pixels_on_a_screen():
    screen = STYLE.partition("@media print")[0]
    sizes = [float(size) for size in re.findall(r"font-size: (\.?\d+\.?\d*)rem", screen)]
    assert sizes and min(sizes) * 16 >= 12
