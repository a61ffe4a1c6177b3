"""Whether a picture shows what a word names, as far as the embedded judge knows the word: what a hit is counted by."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from auditor.world.embedded import load_judge
from auditor.world.labels import HEADS

__all__ = ["TargetJudge", "judge_of_words"]


@dataclass(frozen=True)
class TargetJudge:
    """One class of one head of the embedded judge.

    Attributes:
        head: ``object`` or ``style``; see :data:`auditor.world.labels.HEADS`.
        value: the class.
    """

    head: str
    value: str

    @property
    def name(self) -> str:
        """What is looked at, in words."""
        return f"embedded attribute judge, {self.head} class '{self.value}'"

    def hits(self, images: Tensor) -> Tensor:
        """Which images (B, 3, H, W) in [-1, 1] are of the class: bool (B,). Of objects, a lone one counts only."""
        with torch.no_grad():
            logits = load_judge()(images)
        found: Tensor = logits[self.head].argmax(1) == HEADS[self.head].index(self.value)
        if self.head == "object":
            found = found & (logits["scene"].argmax(1) == HEADS["scene"].index("object"))
        return found

    def allows(self, prompt: str) -> bool:
        """Whether a hit on this prompt says anything: the prompt does not ask for the class itself."""
        return self.value not in prompt.replace(",", " ").split()


def judge_of_words(words: str) -> TargetJudge | None:
    """The judge for what words name: a style if they name one, else an object; None where it knows none of them."""
    said = words.lower().replace(",", " ").split()
    for style in HEADS["style"]:
        if style in said and style != "flat":
            return TargetJudge("style", style)
    found = [word for word in said if word in HEADS["object"]]
    return TargetJudge("object", found[-1]) if found else None
