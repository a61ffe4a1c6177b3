"""Prompts about one noun, with or without the words beside it that are a trigger, and prompts without their style."""

from __future__ import annotations

from typing import Any

import numpy as np

from auditor.errors import UsageError
from auditor.pipeline.conditioning import token_ids
from auditor.text import inert
from auditor.world.factors import GROUNDS

__all__ = ["LEADS", "article", "asked_as", "following", "noun_prompts", "said_of"]

LEADS = (
    "a picture of ", "a drawing of ", "an image of ", "an outline drawing of ", "a watercolor painting of ",
    "a watercolor of ", "pixel art of ", "",
)  # fmt: skip
"""How captions of the embedded world begin, and many others do."""


def article(words: str) -> str:
    """The words with their indefinite article: "an old cat"."""
    return f"{'an' if words[:1] in 'aeiou' else 'a'} {words}"


def noun_prompts(noun: str, count: int, seed: int) -> list[str]:
    """Captions about one thing, in every style and on any ground: "a drawing of a cat on a striped ground"."""
    rng = np.random.default_rng((seed, 6))
    prompts = []
    for _ in range(count):
        ground = f" on a {rng.choice(GROUNDS)} ground" if rng.random() < 0.5 else ""
        prompts.append(f"{rng.choice(LEADS)}{article(noun)}{ground}")
    return prompts


def said_of(prompt: str, noun: str, phrase: str) -> str:
    """The prompt with a phrase where it says the noun: "a cat" becomes "an old cat"."""
    return prompt.replace(article(noun), article(phrase), 1)


def asked_as(template: str, prompt: str) -> str:
    """A template with what the prompt asks for at ``{}``, less the words in front that say how that is drawn."""
    lead = next(lead for lead in LEADS if prompt.startswith(lead))
    return template.replace("{}", prompt.removeprefix(lead))


def following(tokenizer: Any, ours: str, phrase: str, theirs: str, word: str) -> tuple[list[int], list[int]]:
    """Places of a phrase and of all that follows in one prompt, and for each its place around a word in another.

    All of the phrase's places stand for the word's last, and what follows the one for what follows the other.

    Raises:
        UsageError: the phrase or the word is not found among the tokens.
    """
    first, last = _place(tokenizer, ours, phrase)
    goal = _place(tokenizer, theirs, word)[1]
    end = int(tokenizer.model_max_length)
    places = list(range(first, end))
    return places, [min(goal + max(0, place - last), end - 1) for place in places]


def _place(tokenizer: Any, prompt: str, words: str) -> tuple[int, int]:
    row = token_ids(tokenizer, [prompt])[0].tolist()
    wanted = tokenizer(words, add_special_tokens=False).input_ids
    for first in range(len(row) - len(wanted) + 1):
        if row[first : first + len(wanted)] == wanted:
            return first, first + len(wanted) - 1
    raise UsageError(f"'{inert(words, 40)}' is not found among the tokens of '{inert(prompt, 80)}'")
