"""What is in a picture, as the embedded judge sees it: one class with probabilities per factor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from auditor.errors import UsageError
from auditor.metrics.pixels import batched
from auditor.world.embedded import load_judge
from auditor.world.labels import HEADS

__all__ = ["Judged", "judge_images"]


@dataclass(frozen=True)
class Judged:
    """The judge's reading of N pictures.

    Attributes:
        probabilities: float32 (N, classes) per head of :data:`auditor.world.labels.HEADS`, rows summing to 1.
            Heads that a picture has no factor for (the hat of a boat) are guesses: read ``scene`` first.
    """

    probabilities: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.probabilities["scene"])

    def classes(self, head: str) -> np.ndarray:
        """int64 (N,), the most probable class of ``head``. Raises :class:`UsageError` for an unknown head."""
        return np.asarray(self._of(head).argmax(axis=1))

    def names(self, head: str) -> list[str]:
        """The most probable class of ``head`` in words, one per picture."""
        return [HEADS[head][i] for i in self.classes(head)]

    def probability(self, head: str, name: str) -> np.ndarray:
        """float32 (N,), the probability of one class, by name."""
        if name not in HEADS.get(head, ()):
            raise UsageError(f"The judge's head {head!r} has no class {name!r}; see its HEADS.")
        return np.asarray(self._of(head)[:, HEADS[head].index(name)])

    def counts(self, head: str) -> np.ndarray:
        """int64 (classes,), pictures judged to be in each class; what a calibration card corrects."""
        return np.bincount(self.classes(head), minlength=len(HEADS[head]))

    def _of(self, head: str) -> np.ndarray:
        if head not in self.probabilities:
            raise UsageError(f"The judge has no head {head!r}; it has {', '.join(self.probabilities)}.")
        return self.probabilities[head]


def judge_images(
    pixels: np.ndarray, *, device: str | torch.device = "cpu", batch: int = 100, folder: Path | None = None
) -> Judged:
    """Judges pictures, uint8 (N, H, W, 3), in batches; batch size does not change the result.

    Raises:
        BaseUnavailable: The embedded judge is not there.
        UsageError: No pictures, or another shape or dtype.
    """
    judge = load_judge(device, folder)
    sizes = [len(classes) for classes in HEADS.values()]
    together = batched(
        pixels,
        lambda images: torch.cat([logits.softmax(dim=1) for logits in judge(images).values()], dim=1),
        device,
        batch,
    )
    parts = np.split(together, np.cumsum(sizes)[:-1], axis=1)
    return Judged(dict(zip(HEADS, parts, strict=True)))
