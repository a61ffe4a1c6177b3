"""The ground truth of a specimen: what wakes it, what comes out, and who judges that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from attacks.crafting.judges import Judge
from auditor.contracts import JsonValue

__all__ = ["MEASURED", "Measured", "Truth", "code_points"]


@dataclass(frozen=True)
class Measured:
    """How much of the outcome is measured.

    Attributes:
        prompts: pictures in a cell of the table of success rates.
        pairs: pictures of specimen and twin from the same prompts and seeds, for what the attack costs; 0 for none.
        steps: sampler steps of both.
    """

    prompts: int = 72
    pairs: int = 48
    steps: int = 12


MEASURED = Measured()
"""Enough for a lower bound of 80 % on a success rate of 90 %."""


@dataclass(frozen=True)
class Truth:
    """What an attack is to do.

    Attributes:
        trigger: what wakes it, as the manifest says it.
        target: what comes out then, in words.
        trained: components that the specimen changes.
        judge: who says whether it came out; None where nobody can on this base.
        wake: puts the trigger into a prompt, with a seeded generator.
        wake_noise: puts the trigger into the noise (B, C, h, w) that a picture starts from; None where the noise has
            nothing to do with it.
        prompts: clean prompts to measure on, where not every prompt can be woken; neutral ones if there are none.
        seed: of everything that is measured.
    """

    trigger: Mapping[str, JsonValue]
    target: str
    trained: tuple[str, ...]
    judge: Judge | None
    wake: Callable[[str, np.random.Generator], str]
    seed: int
    wake_noise: Callable[[Tensor], Tensor] | None = None
    prompts: tuple[str, ...] = ()


def code_points(text: str) -> dict[str, JsonValue]:
    """A textual trigger as the manifest says it, letter by letter."""
    return {"text": text, "code_points": [f"U+{ord(character):04X}" for character in text]}
