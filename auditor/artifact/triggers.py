"""Words that are said to call an adapter's concept, and what is odd about their letters."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from auditor.artifact.hostile_text import SPELLING_JOINER, confusable_letters
from auditor.artifact.problems import Problem, problem

__all__ = ["Trigger", "declared_triggers", "odd_characters", "trigger_problems"]

_MOST_TRIGGERS = 64
_MOST_TAGS = 200_000
_LONGEST = 400
# A tag that goes with nearly every caption of its folder is what the trainer meant to be the trigger.
_TRIGGER_SHARE = 0.9
_REPEATS = re.compile(r"\d{1,6}_(?P<concept>.+)")
_INVISIBLE = {"Cf", "Zl", "Zp", "Cc", "Co", "Cs", "Cn"}
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_SCRIPTS = (
    "LATIN",
    "CYRILLIC",
    "GREEK",
    "ARMENIAN",
    "HEBREW",
    "ARABIC",
    "CHEROKEE",
    "GEORGIAN",
    "THAI",
    "HANGUL",
)
_ASIAN = re.compile(r"^(?:CJK|HIRAGANA|KATAKANA|BOPOMOFO)")


@dataclass(frozen=True)
class Trigger:
    """One declared trigger.

    Attributes:
        text: the words as declared; untrusted.
        source: where they stand.
        share: captions of its folder that have the tag, against the most frequent tag, 0..1; None if not from
            tags.
        oddities: sentences that name characters by code point; empty for ordinary text.
    """

    text: str
    source: str
    share: float | None = None
    oddities: tuple[str, ...] = ()


def declared_triggers(
    metadata: Mapping[str, str], frequencies: Mapping[str, Any], card: Mapping[str, Any]
) -> tuple[Trigger, ...]:
    """Collects triggers from the header, the training tags and the card, without repeats, at most 64.

    Args:
        metadata: the header's free text (``modelspec.trigger_phrase``; keys marked ``<embed>`` are token
            names).
        frequencies: ``ss_tag_frequency``, parsed: folder to tag to count.
        card: front matter (``instance_prompt``, ``trigger_words``).
    """
    found: dict[tuple[str, str], float | None] = {}
    for key in ("modelspec.trigger_phrase", "modelspec.usage_hint", "ss_trigger_words"):
        for text in _texts(metadata.get(key)):
            found.setdefault((text, key), None)
    for key, value in metadata.items():
        if value == "<embed>":
            found.setdefault((key[:_LONGEST], "embedding"), None)
    for key in ("instance_prompt", "trigger_words", "trigger_word"):
        for text in _texts(card.get(key)):
            found.setdefault((text, f"card.{key}"), None)
    for text, share in _tags(frequencies):
        found.setdefault((text, "ss_tag_frequency"), share)
    chosen = list(found.items())[:_MOST_TRIGGERS]
    return tuple(Trigger(text, source, share, odd_characters(text)) for (text, source), share in chosen)


def odd_characters(text: str) -> tuple[str, ...]:
    """Names what is not plain about a text: look-alikes, hidden and reordering characters, mixed scripts.

    Returns:
        Sentences with code points, such as ``U+200B ZERO WIDTH SPACE is invisible``; ordinary text gives
        none, in whatever single script it is written.
    """
    notes = list(confusable_letters(text))
    for char in sorted(set(SPELLING_JOINER.sub("", text))):
        if char in _BIDI:
            notes.append(f"{_named(char)} reorders the text around it")
        elif unicodedata.category(char) in _INVISIBLE:
            notes.append(f"{_named(char)} is invisible")
        elif char not in " \t\n" and unicodedata.category(char) == "Zs":
            notes.append(f"{_named(char)} looks like a plain space")
        elif unicodedata.category(char) == "Mn" and "VARIATION SELECTOR" in unicodedata.name(char, ""):
            notes.append(f"{_named(char)} is invisible")
    for word in text.split():
        scripts = _scripts(word)
        if len(scripts) > 1:
            notes.append(f"one word mixes {' and '.join(sorted(scripts))} letters")
            break
    return tuple(dict.fromkeys(notes))


def trigger_problems(triggers: Iterable[Trigger]) -> tuple[Problem, ...]:
    """One problem for each declared trigger with odd characters."""
    return tuple(
        problem(
            "claims.trigger_text",
            "medium",
            f"trigger '{t.text}' from {t.source}: {'; '.join(t.oddities[:4])}",
        )
        for t in triggers
        if t.oddities
    )


def _tags(frequencies: Mapping[str, Any]) -> list[tuple[str, float | None]]:
    found: list[tuple[str, float | None]] = []
    seen = 0
    for folder, tags in frequencies.items():
        concept = _REPEATS.fullmatch(str(folder)[:_LONGEST])
        if concept:
            found.append((concept["concept"], None))
        if not isinstance(tags, dict):
            continue
        seen += len(tags)
        if seen > _MOST_TAGS:
            break
        counts: dict[str, int] = {
            str(tag)[:_LONGEST].strip(): n for tag, n in tags.items() if isinstance(n, int) and n > 0
        }
        most = max(counts.values(), default=0)
        shares = {tag: count / most for tag, count in counts.items() if tag}
        frequent = [(tag, share) for tag, share in shares.items() if share >= _TRIGGER_SHARE]
        found.extend((tag, share) for tag, share in sorted(frequent, key=_most_frequent_first))
    return found


def _most_frequent_first(pair: tuple[str, float]) -> tuple[float, str]:
    return -pair[1], pair[0]


def _scripts(word: str) -> set[str]:
    scripts: set[str] = set()
    for char in word:
        if char.isalpha():
            name = unicodedata.name(char, "")
            first = name.partition(" ")[0]
            if first in _SCRIPTS:
                scripts.add(first.title())
            elif _ASIAN.match(name):
                scripts.add("East Asian")
    return scripts


def _named(char: str) -> str:
    return f"U+{ord(char):04X} {unicodedata.name(char, 'UNNAMED')}"


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value[:_LONGEST]] if value.strip() else []
    return (
        [v[:_LONGEST] for v in value if isinstance(v, str) and v.strip()][:16]
        if isinstance(value, list)
        else []
    )
