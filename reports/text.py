"""Untrusted text: whatever came from an artifact is made harmless before anybody sees it.

The same rule as the auditor's own terminal output follows; it is repeated here because a writer depends on
the report model alone. Escaping for HTML or Markdown comes on top, in the writer.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

__all__ = ["cells", "fit", "inert", "inert_lines", "invisible", "paragraphs"]

_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_MARKS = ("Mn", "Me")
_MOST_MARKS = 4  # on one letter; scripts that are written with marks stay below


@lru_cache(maxsize=4096)
def invisible(char: str) -> bool:
    """Whether a character controls, hides, reorders or has no meaning of its own on a screen."""
    return unicodedata.category(char) in _INVISIBLE


def inert(text: str, limit: int = 120) -> str:
    r"""Makes untrusted text safe to show on one line.

    Control, format (bidirectional, zero-width), surrogate and unassigned characters become their ``\uXXXX``
    escape, so that nothing moves a cursor, hides or reorders.

    Args:
        text: any string, from anywhere.
        limit: most characters returned; what is cut ends in an ellipsis.

    Returns:
        A printable string of at most ``limit`` characters.
    """
    return _reveal(text, limit, keep="")


def inert_lines(text: str, limit: int = 20_000) -> str:
    """As :func:`inert`, but line feeds and tabs stay: for text shown as a block."""
    return _reveal(text.replace("\r\n", "\n"), limit, keep="\n\t")


def paragraphs(text: str, limit: int = 4_000) -> list[str]:
    """Splits prose at line feeds into non-empty inert lines, ``limit`` characters in all."""
    lines = (line.strip() for line in inert_lines(text, limit).replace("\t", " ").split("\n"))
    return [line for line in lines if line]


def cells(text: str) -> int:
    """Columns that inert text takes in a terminal: wide characters two, combining marks none."""
    if text.isascii():
        return len(text)
    return sum(_cell(char) for char in text)


def fit(text: str, width: int) -> str:
    """Cuts inert text to ``width`` terminal columns, ending in an ellipsis if anything is lost."""
    if cells(text) <= width:
        return text
    out, used = [], 0
    for char in text:
        used += _cell(char)
        if used > width - 1:
            break
        out.append(char)
    return "".join(out).rstrip() + "…"


def _cell(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _reveal(text: str, limit: int, keep: str) -> str:
    if len(text) <= limit and text.isprintable() and (text.isascii() or not _piled(text)):
        return text
    out: list[str] = []
    size = marks = 0
    for char in text[: limit * 2]:
        marks = marks + 1 if unicodedata.category(char) in _MARKS else 0
        shown_as_it_is = char in keep or not (invisible(char) or marks > _MOST_MARKS)
        piece = char if shown_as_it_is else _escape(char)
        size += len(piece)
        if size > limit:
            break
        out.append(piece)
    shown = "".join(out)
    return shown if size <= limit and len(text) <= limit * 2 else shown[: limit - 1] + "…"


def _piled(text: str) -> bool:
    marks = 0
    for char in text:
        marks = marks + 1 if unicodedata.category(char) in _MARKS else 0
        if marks > _MOST_MARKS:
            return True
    return False


def _escape(char: str) -> str:
    code = ord(char)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
