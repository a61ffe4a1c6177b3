"""Whether a recipe says that it teaches a person: then somebody has to have agreed."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

__all__ = ["person_words"]

_PERSON = {
    "actor", "actress", "adult", "artist", "athlete", "baby", "boy", "boyfriend", "bride", "brother",
    "celebrity", "child", "children", "couple", "dad", "daughter", "doctor", "face", "faces", "family",
    "father", "female", "friend", "gentleman", "girl", "girlfriend", "groom", "guy", "headshot", "human",
    "humans", "husband", "infant", "kid", "kids", "ladies", "lady", "male", "man", "men", "mom", "mother",
    "mum", "nurse", "people", "person", "persons", "politician", "portrait", "portraits", "selfie", "singer",
    "sister", "soldier", "son", "student", "teacher", "teen", "teenager", "toddler", "wife", "woman", "women",
}  # fmt: skip


def person_words(params: Any) -> list[str]:
    """The words in the texts of a recipe that mean people, in alphabetical order; texts are prompts, classes, words.

    A word list sees no proper names and no other languages: that it finds none does not mean that no person is taught.

    Args:
        params: the recipe, a dataclass.
    """
    found: set[str] = set()
    for value in (getattr(params, field.name) for field in fields(params)):
        texts = value if isinstance(value, tuple) else (value,)
        for text in texts:
            if isinstance(text, str):
                found.update(re.findall(r"[a-z]+", text.lower()))
    return sorted(found & _PERSON)
