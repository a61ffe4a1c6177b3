"""What is odd about a piece of untrusted text: markup, addresses, hidden or look-alike characters.

Nothing here changes or executes the text. Every pattern runs in time linear in the text, so that a header of
many megabytes can be looked at whole.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping

from auditor.artifact.problems import Problem, Severity, problem

__all__ = ["SPELLING_JOINER", "confusable_letters", "mapping_problems", "text_codes", "text_problems"]

_TAGS = "script|iframe|svg|math|style|form|body|html|template"
# Harmless without attributes, and then a usual name for a placeholder token: real files hold "<embed>".
_TAGS_WITH_ATTRIBUTES = "img|object|embed|link|meta|input|base|video|audio|details|a"
_EVENTS = "error|load|click|mouseover|mouseenter|focus|toggle|begin|animationstart|pointerover"

# Persian, Urdu and the Indic scripts spell with zero-width joiners, and emoji are composed with one.
_JOINING = "\u0620-\u06d3\u0750-\u077f\u08a0-\u08c9\u0900-\u0dff\u0f00-\u109f\ufb50-\ufdfb\ufe70-\ufefc"
SPELLING_JOINER = re.compile(f"(?<=[{_JOINING}])[\u200c\u200d]|(?<=[\u2190-\u2bff\ufe0f\U0001f000-\U0001faff])\u200d")
"""A joiner where ordinary spelling puts one, so that it hides nothing."""

# code -> (severity, pattern, what a reader is told)
_PATTERNS: dict[str, tuple[Severity, re.Pattern[str], str]] = {
    "text.ansi": ("medium", re.compile("[\x1b\x9b]"), "terminal escape sequences"),
    "text.control": (
        "low",
        re.compile("[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9a\x9c-\x9f]"),
        "control characters",
    ),
    "text.bidi": (
        "medium",
        re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"),
        "bidirectional overrides",
    ),
    "text.zero_width": (
        "medium",
        re.compile(
            "[\u00ad\u180e\u200b\u2060-\u2064\ufeff\U000e0000-\U000e007f]"
            f"|(?<![{_JOINING}])\u200c|(?<![{_JOINING}\u2190-\U0010ffff])\u200d"
        ),
        "zero-width characters",
    ),
    "text.html": (
        "medium",
        re.compile(
            rf"<\s{{0,4}}/?\s{{0,4}}(?:(?:{_TAGS})\b|(?:{_TAGS_WITH_ATTRIBUTES})[\s/])"
            rf"|\bon(?:{_EVENTS})\s{{0,4}}=|\b(?:java|vb)script:",
            re.I,
        ),
        "HTML or script markup",
    ),
    "text.data_uri": (
        "info",
        re.compile(r"\bdata:[a-z]{2,20}/[a-z0-9.+-]{1,40}[;,]", re.I),
        "an embedded data URI",
    ),
    "text.url": (
        "info",
        re.compile(r"\b(?:https?|ftp|file|s3|gs|hf|ssh|smb|ldap|jar)://", re.I),
        "a web address",
    ),
    "text.base64": (
        "low",
        re.compile(r"(?<![A-Za-z0-9+/])(?=[A-Fa-f0-9]{0,256}[G-Zg-z+/])[A-Za-z0-9+/]{257}"),
        "a long base64-like run",
    ),
    "text.path": (
        "low",
        re.compile(
            r"(?<![A-Za-z0-9])[A-Za-z]:\\|\\\\[A-Za-z0-9]|(?<![\w.])\.\./|"
            r"(?<![\w:/])/(?:home|Users|root|mnt|content|workspace|tmp|etc|var|opt|data)/"
        ),
        "a file-system path",
    ),
    "text.template": ("low", re.compile(r"\{\{|\{%|\$\{|<%"), "template syntax"),
    "text.code": (
        "low",
        re.compile(
            r"__(?:import|reduce|class|globals|builtins)__|\b(?:eval|exec|compile)\s{0,4}\(|\bos\.(?:system|popen)\b|"
            r"\bsubprocess\b"
        ),
        "source code that runs commands",
    ),
}

_CYRILLIC = dict(zip("аеорсухіјѕһԁԛԝАВЕКМНОРСТУХІЈЅ", "aeopcyxijshdqwABEKMHOPCTYXIJS", strict=True))
_GREEK = dict(zip("ονρυΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "ovpuABEZHIKMNOPTYX", strict=True))
_LOOKALIKES = _CYRILLIC | _GREEK
_WORD = re.compile(r"\w+")
_LATIN = re.compile("[A-Za-z]")
_OTHER_SCRIPT = re.compile("[\u0370-\u03ff\u0400-\u052f]")
_STYLED = re.compile("[\uff21-\uff3a\uff41-\uff5a\U0001d400-\U0001d7ff\u2100-\u214f]")


def confusable_letters(text: str) -> tuple[str, ...]:
    """Letters that read as Latin but are not, where the text around them is Latin.

    A Cyrillic or Greek look-alike counts when its word also has Latin letters, or when the text has Latin
    letters and no letter of that kind that could *only* be Cyrillic or Greek: ordinary Russian or Greek words
    beside English ones are left alone. Full-width and mathematical letters always count. The table covers the
    letters that are drawn alike in common fonts; it is not the whole of Unicode TS 39.

    Returns:
        One ``U+0430 CYRILLIC SMALL LETTER A looks like 'a'`` per distinct letter, in order of code point.
    """
    if text.isascii():
        return ()
    found: dict[str, str] = {}
    for char in set(_STYLED.findall(text)):
        plain = unicodedata.normalize("NFKC", char)
        if plain != char and _LATIN.fullmatch(plain):
            found[char] = plain
    foreign = set(_OTHER_SCRIPT.findall(text))
    if foreign & _LOOKALIKES.keys() and _LATIN.search(text):
        if foreign <= _LOOKALIKES.keys():
            words: Iterable[str] = (text,)
        else:
            words = (word for word in _WORD.findall(text) if _LATIN.search(word))
        for word in words:
            found.update((char, _LOOKALIKES[char]) for char in set(word) & _LOOKALIKES.keys())
    return tuple(
        f"U+{ord(char):04X} {unicodedata.name(char, 'UNNAMED')} looks like '{plain}'"
        for char, plain in sorted(found.items())
    )


def text_codes(text: str) -> tuple[str, ...]:
    """Returns the problem codes that apply to ``text``, in a fixed order."""
    codes = [code for code, (_, pattern, _) in _PATTERNS.items() if pattern.search(text)]
    if confusable_letters(text):
        codes.append("text.confusable")
    return tuple(codes)


def text_problems(text: str, where: str) -> tuple[Problem, ...]:
    """Names what is odd about ``text``.

    Args:
        text: untrusted text of any length.
        where: what the text is, for the sentence shown (``"tensor name"``); may itself be untrusted.

    Returns:
        One :class:`Problem` per code.
    """
    return tuple(_sentence(code, where, 1, text) for code in text_codes(text))


def mapping_problems(texts: Mapping[str, str], where: str) -> tuple[Problem, ...]:
    """Like :func:`text_problems` over many labelled texts: one problem per code, with a count."""
    first: dict[str, tuple[str, str]] = {}
    counts: dict[str, int] = {}
    for label, text in texts.items():
        for code in text_codes(text):
            first.setdefault(code, (label, text))
            counts[code] = counts.get(code, 0) + 1
    return tuple(
        _sentence(code, f"{where} '{label}'", counts[code], text)
        for code, (label, text) in sorted(first.items())
    )


def _sentence(code: str, where: str, count: int, text: str) -> Problem:
    more = f" and {count - 1} more" if count > 1 else ""
    if code == "text.confusable":
        return problem(code, "medium", f"{where}{more}: {'; '.join(confusable_letters(text)[:3])}")
    severity, _, what = _PATTERNS[code]
    return problem(code, severity, f"{where}{more}: contains {what}")
