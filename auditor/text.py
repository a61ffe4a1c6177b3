"""Untrusted text: names, captions and metadata from artifacts are hostile until proven otherwise."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

__all__ = ["did_you_mean", "inert"]

_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_MARKS = ("Mn", "Me")
_MOST_MARKS = 4  # on one letter; scripts that are written with marks stay below


def inert(text: str, limit: int = 120) -> str:
    r"""Makes untrusted text safe to print in a terminal, a log line or an error message.

    Control, format (bidirectional, zero-width), surrogate and unassigned characters become their
    ``\uXXXX`` escape, so that nothing moves a cursor, hides or reorders, and so do accents piled on one letter;
    the result is cut to ``limit`` characters with an ellipsis. Escaping for HTML is the writer's task, on top
    of this.

    Args:
        text: any string, from anywhere.
        limit: most characters returned.

    Returns:
        A single-line printable string of at most ``limit`` characters.
    """
    out: list[str] = []
    size = marks = 0
    for char in text[: limit * 2]:
        marks = marks + 1 if unicodedata.category(char) in _MARKS else 0
        hidden = unicodedata.category(char) in _INVISIBLE or marks > _MOST_MARKS
        piece = _escape(char) if hidden else char
        size += len(piece)
        if size > limit:
            break
        out.append(piece)
    shown = "".join(out)
    return shown if size <= limit and len(text) <= limit * 2 else shown[: limit - 1] + "…"


def _escape(char: str) -> str:
    code = ord(char)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns ``"; did you mean 'x'?"`` for the closest known name, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""
