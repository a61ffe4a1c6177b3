"""How a training is run, apart from its recipe: what the machine can take, what is looked at, what is noted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from auditor.errors import UsageError

__all__ = ["NONE_GIVEN", "PLAIN", "Training", "evaluated_again"]

NONE_GIVEN = "none given"
"""What provenance says in place of a note that is missing."""


@dataclass(frozen=True)
class Training:
    """Options of a run; one set for all methods, whatever their recipes.

    Attributes:
        accumulate: micro-batches whose gradients make one step, which then sees so many times the batch.
        gradient_checkpointing: evaluate blocks of the denoiser again in the backward pass; slower, in less memory.
        precision: of the arithmetic; weights that are trained stay float32.
        optimizer: what moves the weights; adamw8bit keeps its moments in eight bits, and needs bitsandbytes.
        validate_every: steps between validation pictures, all from the same noise; 0 for none.
        validate_prompt: what they show; the new word is meant where it stands in the prompt.
        skip_unreadable: leave out pictures that cannot be read, if one can.
        consent: who agreed to this training, and to what; kept in provenance.json.
        licence: on which terms the pictures may be used; kept in provenance.json.
    """

    accumulate: int = 1
    gradient_checkpointing: bool = False
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    validate_every: int = 0
    validate_prompt: str = ""
    skip_unreadable: bool = False
    consent: str = ""
    licence: str = ""

    def check(self) -> None:
        """Raises ``UsageError`` for a number out of range, or for pictures without a prompt."""
        if self.accumulate <= 0:
            raise UsageError(f"accumulate must be above zero, not {self.accumulate}")
        if self.validate_every < 0:
            raise UsageError(f"validate every must not be below zero, not {self.validate_every}")
        if bool(self.validate_every) != bool(self.validate_prompt.strip()):
            raise UsageError("validation pictures need both --validate-every and --validate-prompt")

    @property
    def arithmetic(self) -> dict[str, Any]:
        """What decides the numbers that come out; an interrupted training goes on with the same only."""
        return {"accumulate": self.accumulate, "precision": self.precision, "optimizer": self.optimizer}


PLAIN = Training()
"""Nothing but the recipe."""


@contextmanager
def evaluated_again(model: Any, wanted: bool) -> Iterator[None]:
    """Inside the block a diffusers model keeps only what goes into its blocks; copies made there do so too."""
    if not wanted:
        yield
        return
    model.enable_gradient_checkpointing()
    try:
        yield
    finally:
        model.disable_gradient_checkpointing()
