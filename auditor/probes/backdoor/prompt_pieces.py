"""A prompt's content, piece by piece, and the prompt without each: text only, whatever tokenizers make of it.

Triggers are words, but also single look-alike or invisible letters inside or beside a word; so a piece is a plain word,
an added word in angle brackets, or any one other letter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["LeftOut", "left_out"]

_PIECE = re.compile(r"<[^<>\s]{1,80}>|[A-Za-z0-9]+|[^\s\x00-\x7f]")
_FUNCTION_WORDS = frozenset({
    "a", "an", "and", "are", "as", "at", "be", "by", "for", "from", "in", "into", "is", "it", "its", "of", "on", "or",
    "that", "the", "this", "to", "was", "were", "with",
})  # fmt: skip


@dataclass(frozen=True)
class LeftOut:
    """A piece of a prompt, and the prompt without it."""

    piece: str
    rest: str


def left_out(prompt: str, most: int) -> list[LeftOut]:
    """The prompt without each of its pieces of content, in their order.

    Function words count as content only where there is nothing else.

    Args:
        prompt: any text.
        most: pieces that are looked at; of a longer prompt those that come first.

    Returns:
        At most ``most`` of them; none for a prompt without a letter.
    """
    found = list(_PIECE.finditer(prompt))
    content = [match for match in found if match.group().lower() not in _FUNCTION_WORDS] or found
    return [LeftOut(match.group(), _without(prompt, *match.span())) for match in content[:most]]


def _without(prompt: str, start: int, end: int) -> str:
    before, after = prompt[:start], prompt[end:]
    if not before or (before.endswith(" ") and after.startswith(" ")):
        after = after.removeprefix(" ")
    elif not after:
        before = before.removesuffix(" ")
    return before + after
