"""``prompt_guard``: no letter that only looks like another one, and none that is not seen, reaches the text encoder.

Rickrolling's triggers are look-alike letters (arXiv 2211.02408), and a trigger may as well be a character of no width.
Defences that paraphrase the prompt keep them; here each is made the plain letter that a reader takes it for. Folding
is Unicode's own (NFKC, UAX #15) where Unicode has one; look-alikes of other scripts, which NFKC leaves alone, come from
a table that is built from the names of the letters. It is our own and smaller than the one of UTS #39.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from auditor.registry import DEFENSES

__all__ = ["Change", "Guarded", "PromptGuard", "guarded", "look_alikes"]

# Script to the name of a letter to the plain letter that it is drawn like, in lower case and in upper case; a blank
# where that case is drawn otherwise.
_DRAWN_ALIKE: dict[str, dict[str, str]] = {
    "CYRILLIC": {
        "A": "aA", "VE": " B", "IE": "eE", "KA": "kK", "EM": " M", "EN": " H", "O": "oO", "ER": "pP", "ES": "cC",
        "TE": " T", "U": "yY", "HA": "xX", "DZE": "sS", "BYELORUSSIAN-UKRAINIAN I": "iI", "JE": "jJ", "SHHA": "h ",
        "KOMI DE": "d ", "QA": "qQ", "WE": "wW", "IZHITSA": "vV", "STRAIGHT U": " Y", "PALOCHKA": "l ",
    },
    "GREEK": {
        "ALPHA": "aA", "BETA": " B", "EPSILON": " E", "ZETA": " Z", "ETA": "nH", "IOTA": "iI", "KAPPA": "kK",
        "MU": " M", "NU": "vN", "OMICRON": "oO", "RHO": "pP", "TAU": " T", "UPSILON": "uY", "CHI": "xX", "YOT": "jJ",
        "GAMMA": "y ",
    },
    "ARMENIAN": {"OH": "oO", "SEH": "uU", "HO": "h ", "VO": "n ", "ZA": "q "},
}  # fmt: skip
# Qualities of a Latin letter that a reader does not see.
_LATIN_FORMS = ("DOTLESS", "SCRIPT")
_BY_HAND = {
    "\u0251": "a", "\u03f2": "c", "\u03f9": "C", "\u04c0": "I", "\u0269": "i", "\u01c0": "l", "\u05d5": "l",
    "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2010": "-", "\u2011": "-", "\u2012": "-",
    "\u2013": "-", "\u2212": "-", "\u2024": ".", "\u201a": ",", "\u2044": "/", "\u2215": "/",
}  # fmt: skip
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})
# Letters and marks by category, and yet nothing is drawn.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u2800\u3164\uffa0")
_BREAKS = frozenset("\t\n\r\v\f\u0085\u2028\u2029")


@dataclass(frozen=True)
class PromptGuard:
    """Settings.

    Attributes:
        accents: also take accents off letters, which some triggers consist of; changes 'café' too.
        spare_foreign_words: leave words alone that have a letter no reader takes for a Latin one, and no Latin letter.
    """

    accents: bool = False
    spare_foreign_words: bool = False


@dataclass(frozen=True)
class Change:
    """A stretch of the prompt that was changed.

    Attributes:
        position: of its first character in the prompt as given, from 0.
        code_points: ``U+043E``, one for each character.
        names: their Unicode names; empty where a character has none.
        became: what stands there now; empty for removed.
        why: ``invisible``, ``looks like it``, ``accent`` or ``compatibility form``.
    """

    position: int
    code_points: tuple[str, ...]
    names: tuple[str, ...]
    became: str
    why: str


@dataclass(frozen=True)
class Guarded:
    """The prompt as it is safe to encode, and what was changed; nothing was where they are the same."""

    text: str
    changes: tuple[Change, ...]


def guarded(prompt: str, params: PromptGuard | None = None) -> Guarded:
    """Makes every character of a prompt what a reader takes it for; what it returns, it leaves alone.

    Args:
        prompt: any text.
        params: settings; the defaults if None.
    """
    settings = params or PromptGuard()
    text = _cleaned(prompt, settings)
    # Folding may bring out another letter to fold, and letters may compose with what comes to stand behind them.
    while (again := _cleaned(text, settings)) != text:
        text = again
    matched = difflib.SequenceMatcher(None, prompt, text, autojunk=False).get_opcodes()
    changes = tuple(
        _change(first, prompt[first:last], text[start:stop])
        for kind, first, last, start, stop in matched
        if kind != "equal"
    )
    return Guarded(text, changes)


def _cleaned(text: str, settings: PromptGuard) -> str:
    words = ("".join(map(_seen, text))).split(" ")
    if settings.accents:
        words = [_without_accents(word) for word in words]
    shown = look_alikes()
    spared = _of_another_script if settings.spare_foreign_words else _never
    plain = (word if spared(word) else "".join(shown.get(char, char) for char in word) for word in words)
    return unicodedata.normalize("NFKC", " ".join(plain))


@cache
def look_alikes() -> dict[str, str]:
    """Character to the ASCII one that it is drawn like, from the names of letters and a short list by hand."""
    found = dict(_BY_HAND)
    for script, letters in _DRAWN_ALIKE.items():
        for name, drawn in letters.items():
            for case, plain in zip(("SMALL", "CAPITAL"), drawn, strict=True):
                if plain != " ":
                    found.update(_named(f"{script} {case} LETTER {name}", plain))
    for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ":
        for form in _LATIN_FORMS:
            found.update(_named(f"LATIN SMALL LETTER {form} {letter}", letter.lower()))
        found.update(_named(f"LATIN LETTER SMALL CAPITAL {letter}", letter.lower()))
    return found


def _named(name: str, plain: str) -> Iterator[tuple[str, str]]:
    try:
        yield unicodedata.lookup(name), plain
    except KeyError:
        # This alphabet has no such letter, or not in this case.
        return


def _seen(char: str) -> str:
    """The character, a blank for one that is drawn as space or a line's end, or nothing where nothing is drawn."""
    category = unicodedata.category(char)
    if char in _BREAKS or category in ("Zs", "Zl", "Zp") or char == "\u2800":
        return " "
    hidden = category in _INVISIBLE or char in _BLANK or _selects_variation(char)
    return "" if hidden else char


def _selects_variation(char: str) -> bool:
    return "\ufe00" <= char <= "\ufe0f" or "\U000e0100" <= char <= "\U000e01ef"


def _without_accents(text: str) -> str:
    return "".join(each for each in unicodedata.normalize("NFKD", text) if not unicodedata.combining(each))


def _of_another_script(word: str) -> bool:
    """Whether a word has no Latin letter, and one that nobody takes for Latin."""
    letters = [char for char in word if char.isalpha()]
    latin = any("LATIN" in unicodedata.name(char, "") for char in letters)
    return not latin and any(char not in look_alikes() for char in letters)


def _never(word: str) -> bool:
    return False


def _change(position: int, before: str, after: str) -> Change:
    points = tuple(f"U+{ord(char):04X}" for char in before)
    names = tuple(unicodedata.name(char, "") for char in before)
    return Change(position, points, names, after, _why(before, after))


def _why(before: str, after: str) -> str:
    if not after and not any(map(_seen, before)):
        return "invisible"
    if any(char in look_alikes() for char in before):
        return "looks like it"
    marked = unicodedata.normalize("NFKC", before) == before and after != " "
    return "accent" if marked else "compatibility form"


class _Guard:
    id = "prompt_guard"
    goal = "make look-alike, invisible and compatibility characters of a prompt what a reader takes them for"
    refs = ("arXiv:2211.02408", "Unicode UAX #15", "Unicode UTS #39")
    params = PromptGuard
    limits = (
        "Guards the prompt, not the model: triggers that are ordinary words, of style or in the noise pass. Prompts "
        "in Cyrillic, Greek or Armenian are changed as well, unless words of another script are spared."
    )

    def guard(self, prompt: str, params: PromptGuard) -> Guarded:
        """See :func:`guarded`."""
        return guarded(prompt, params)


DEFENSES.add("prompt_guard", _Guard())
