"""Markdown out of untrusted text: nothing in it can format, link, mention, embed or open a block."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from reports.numbers import NONE
from reports.text import inert, paragraphs

__all__ = ["code", "prose", "table"]

_LINKED = re.compile(r"@|#\w|://|www\.|\bGH-\d|^[0-9a-f]{7,40}\W*$", re.IGNORECASE)
_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;", "|": "&#124;"}


def code(text: str) -> str:
    """A code span that no content can leave, also inside a table."""
    shown = inert(text, 200).strip()
    if not shown:
        return NONE
    # A table splits its cells before anybody looks for code spans, so that a pipe has to go.
    shown = shown.replace("|", "\\u007c")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    padding = " " if "`" in shown else ""
    return f"{fence}{padding}{shown}{padding}{fence}"


def prose(text: str) -> str:
    """Text in which nothing formats, links or mentions; lines become one paragraph."""
    pieces = re.split(r"(\s+)", " ".join(paragraphs(text)))
    return _first("".join(code(piece) if _LINKED.search(piece) else _escape(piece) for piece in pieces))


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """The lines of a table; cells are Markdown already, and an empty one shows a dash."""
    yield "| " + " | ".join(head) + " |"
    yield "|" + " --- |" * len(head)
    for row in rows:
        yield "| " + " | ".join(cell or NONE for cell in row) + " |"


def _escape(text: str) -> str:
    escaped = re.sub(r"[\\`*_{}\[\]~$!#]|:(?=[\w+-]+:)", lambda found: "\\" + found[0], text)
    return re.sub("[<>&|]", lambda found: _ENTITIES[found[0]], escaped)


def _first(text: str) -> str:
    """Escapes what would make a block of the line: a list, a rule, a heading's underline."""
    return re.sub(r"^([-+=]|\d+[.)](?=\s|$))", lambda found: found[0][:-1] + "\\" + found[0][-1], text)
