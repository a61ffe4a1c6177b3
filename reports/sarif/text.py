"""Text in a SARIF log: inert, of bounded length, and without the markup that SARIF itself reads."""

from __future__ import annotations

import re
from typing import Any

from reports.text import inert

__all__ = ["ID_LIMIT", "TEXT_LIMIT", "message", "pascal_case", "plain", "rule_id"]

TEXT_LIMIT = 1000
"""Characters of a description that a code-scanning page shows, with some room."""

ID_LIMIT = 200


def rule_id(text: str) -> str:
    """An identifier of a rule, never empty; a slash would make a hierarchy of it (3.27.5)."""
    return inert(text, ID_LIMIT).replace("/", "_") or "unnamed"


def pascal_case(text: str) -> str:
    """The friendly name that viewers filter by, such as ``BackdoorVocabularyShift``; empty without letters."""
    return "".join(word.capitalize() for word in re.findall(r"[A-Za-z0-9]+", text))[:ID_LIMIT]


def plain(text: str, limit: int = ID_LIMIT) -> str:
    """Text for names and properties, one line."""
    return inert(" ".join(text.split()), limit)


def message(text: str, limit: int = TEXT_LIMIT) -> dict[str, Any]:
    """A message object; no link and no placeholder can form in it.

    SARIF reads ``[text](target)`` as a link (3.11.6) and ``{0}`` as a placeholder (3.11.5), whose braces are
    written twice where they are meant as braces.
    """
    shown = plain(text, limit).replace("](", "] (")
    return {"text": shown.replace("{", "{{").replace("}", "}}")}
