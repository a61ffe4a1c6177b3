"""What all methods have in common that learn from a folder of pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch

from auditor.contracts import Progress
from auditor.errors import OutOfMemory, UsageError
from auditor.personalize.blocks.processes import NotMain
from auditor.personalize.blocks.training import PLAIN, Training, evaluated_again
from auditor.pipeline.components import Components
from auditor.registry import METHODS

__all__ = ["ANY_DENOISER", "PictureMethod", "is_memory", "memory_told"]

ANY_DENOISER = ("unet", "transformer")
"""For methods that work on every family there is."""
_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")


class PictureMethod(ABC):
    """A method of fine-tuning; satisfies :class:`auditor.contracts.Method`.

    A subclass says what it is and what :meth:`learn` does. What does not depend on the method is here: whether it
    fits the base, gradient checkpointing, running out of memory, and who of several processes writes.
    """

    id: ClassVar[str]
    goal: ClassVar[str]
    refs: ClassVar[tuple[str, ...]]
    params: ClassVar[type]
    denoisers: ClassVar[tuple[str, ...]] = ("unet",)
    """The kinds of denoiser that it can train on."""

    def fit(
        self,
        base: Components,
        data: Path,
        params: Any,
        out: Path,
        progress: Progress,
        training: Training = PLAIN,
    ) -> Path:
        """Trains on a folder of pictures, and writes what was learned and its provenance.

        Args:
            base: a loaded base; as before afterwards, also after an exception.
            data: the folder.
            params: the recipe.
            out: where files go.
            progress: told of every step.
            training: how it is run.

        Returns:
            What was written; ``out`` in a process that is not the one that writes.

        Raises:
            UsageError: the method is not for bases of this kind, unusable pictures, or a number out of range.
            OutOfMemory: the machine has too little; the message says what to lower.
            OutputError: ``out`` holds an adapter already, or cannot be written.
        """
        training.check()
        self._check_fits(base)
        with memory_told(params, training), evaluated_again(base.denoiser_model, training.gradient_checkpointing):
            try:
                return self.learn(base, data, params, out, progress, training)
            except NotMain:
                return out

    @abstractmethod
    def learn(
        self, base: Components, data: Path, params: Any, out: Path, progress: Progress, training: Training
    ) -> Path:
        """:meth:`fit` for a base that the method fits."""

    def _check_fits(self, base: Components) -> None:
        if base.kind.denoiser in self.denoisers:
            return
        able = [m.id for m in METHODS if base.kind.denoiser in getattr(m, "denoisers", ())]
        raise UsageError(
            f"{self.id} trains bases with a {' or '.join(self.denoisers)}, and {base.family} has a "
            f"{base.kind.denoiser}; for it there are {', '.join(able)}"
        )


@contextmanager
def memory_told(params: Any, training: Training) -> Iterator[None]:
    """Turns whatever says that memory is short into one sentence that says which setting to lower.

    Raises:
        OutOfMemory: in place of that error.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_memory(error):
            raise
        raise OutOfMemory(f"out of memory: {_advice(int(getattr(params, 'batch', 1)), training)}") from error


def is_memory(error: Exception) -> bool:
    """Whether an error says that memory is short, on an accelerator or on the CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(sign in str(error).lower() for sign in _MEMORY)


def _advice(batch: int, training: Training) -> str:
    ways = []
    if batch > 1:
        ways.append(f"lower --batch from {batch} to 1 with --accumulate {batch * training.accumulate}")
    if not training.gradient_checkpointing:
        ways.append("add --gradient-checkpointing")
    if training.precision == "fp32":
        ways.append("take --precision bf16")
    if not ways:
        return "nothing is left to lower; take a smaller base, or a device with more memory"
    return f"{', then '.join(ways)}; the first that helps will do" if len(ways) > 1 else ways[0]
