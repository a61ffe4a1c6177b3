"""What a repair takes for the trigger: what it is told, or what a scan of the vocabulary finds most displaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from auditor.contracts import JsonValue
from auditor.errors import UsageError
from auditor.pipeline.subject import Subject
from auditor.pipeline.text_shift import vocabulary
from auditor.probes.backdoor.vocabulary_shift import VocabularyShift, scan_vocabulary
from auditor.proving.memory_run import MemoryRun
from auditor.text import inert
from defenses.repair.prompt_guard import look_alikes

__all__ = ["Candidate", "candidates_of", "scanned", "woken"]

_SHARE = 0.75


@dataclass(frozen=True)
class Candidate:
    """One text that may wake the adapter.

    Attributes:
        text: as it is written in a prompt.
        spellings: the token ids that it can be, as a word of its own and inside one.
        target: the word that a scan of the vocabulary finds its states next to; empty where it was not looked for.
        shift: how far the text encoder or attention is displaced, in the scan's units; 0 where it was not looked for.
    """

    text: str
    spellings: tuple[tuple[int, ...], ...]
    target: str = ""
    shift: float = 0.0

    def told(self) -> dict[str, JsonValue]:
        """As the certificate has it."""
        return {
            "text": inert(self.text, 80),
            "code_points": [f"U+{ord(char):04X}" for char in self.text[:16]],
            "target": self.target,
            "shift": self.shift,
        }


def scanned(subject: Subject) -> dict[str, Any]:
    """A fresh scan of the vocabulary by ``backdoor.vocabulary_shift``, at its default parameters."""
    return scan_vocabulary(subject, VocabularyShift(), MemoryRun("backdoor.vocabulary_shift"))


def candidates_of(
    subject: Subject, scan: Mapping[str, Any], trigger: str = "", concept: Sequence[str] = ()
) -> tuple[Candidate, ...]:
    """The trigger that was named, or else the most displaced entries of a scan, the first one foremost.

    Entries whose states are like a trigger's answer as it does: all of the scan's count that are displaced beyond the
    rest by three quarters of what the first one is.

    Args:
        subject: the adapter on its base.
        scan: of it.
        trigger: what was named; nothing if empty.
        concept: prompts of the adapter's own concept, whose plain words are no candidates.

    Raises:
        UsageError: the trigger named is empty, or too long for a prompt; or none was, and the scan finds none.
    """
    tokenizer = subject.components.tokenizers[scan["lexicon"]]
    found = [_entry(tokenizer, row, scan) for row in scan["top"]]
    if trigger:
        return (_named(tokenizer, trigger, found),)
    own = {id for text in concept for id in tokenizer(text, add_special_tokens=False).input_ids if text.isascii()}
    middle = scan["medians"][scan["channel"]]
    kept: dict[str, Candidate] = {}
    for each in found:
        enough = each.shift - middle >= _SHARE * (found[0].shift - middle)
        if enough and each.spellings[0][0] not in own:
            kept.setdefault(each.text, each)
    if not kept:
        raise UsageError("the scan finds no word displaced but those of the adapter's own concept: name the --trigger")
    return tuple(kept.values())


def _named(tokenizer: Any, trigger: str, found: Sequence[Candidate]) -> Candidate:
    ids = tuple(tokenizer(trigger, add_special_tokens=False).input_ids)
    if not trigger.strip() or not ids or len(ids) > int(tokenizer.model_max_length) // 2:
        raise UsageError(f"the trigger '{inert(trigger, 40)}' is no text that fits a prompt of this base")
    spellings = tuple(dict.fromkeys((ids, *_spelled(tokenizer, trigger))))
    known = next((each for each in found if set(each.spellings) & set(spellings)), None)
    return Candidate(trigger, spellings, known.target if known else "", known.shift if known else 0.0)


def woken(prompt: str, trigger: str, rng: np.random.Generator) -> str:
    """The prompt with the trigger: in place of a letter that it looks like, mostly, or as a word of its own."""
    letter = look_alikes().get(trigger, "")
    places = [i for i, char in enumerate(prompt) if letter and char == letter]
    if places and rng.random() < 0.7:
        at = int(rng.choice(places))
        return prompt[:at] + trigger + prompt[at + 1 :]
    words = prompt.split(" ")
    words.insert(int(rng.integers(1, len(words) + 1)), trigger)
    return " ".join(words)


def _entry(tokenizer: Any, row: Mapping[str, Any], scan: Mapping[str, Any]) -> Candidate:
    token = int(row["token"])
    text = str(tokenizer.decode([token])).strip() or str(row["text"])
    spellings = tuple(dict.fromkeys(((token,), *_spelled(tokenizer, text))))
    return Candidate(text, spellings, str(row["target"]), float(row[f"{scan['channel']}_shift"]))


def _spelled(tokenizer: Any, text: str) -> list[tuple[int, ...]]:
    """The single tokens that read as ``text``: inside a word they are others than at its end."""
    return [(id,) for id in vocabulary(tokenizer) if str(tokenizer.decode([id])).strip() == text]
