"""Calibration cards: how the judge errs on pictures whose factors are known, and rates corrected for it.

A card holds the confusion counts of every head under one condition. Rates counted on generated pictures are
corrected with the card of the condition nearest to how they were made (``regenerated``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from auditor.errors import BaseUnavailable, UsageError
from auditor.metrics.attributes import Judged
from auditor.stats import CorrectedRates, correct_rates
from auditor.world.factors import Scene
from auditor.world.labels import ABSENT, HEADS, label_matrix

__all__ = [
    "CONDITIONS",
    "Card",
    "Condition",
    "cards_folder",
    "corrected",
    "load_card",
    "measure_card",
    "write_card",
]

Condition = Literal["render", "round_trip", "regenerated"]
CONDITIONS: tuple[Condition, ...] = get_args(Condition)


@dataclass(frozen=True)
class Card:
    """Confusion counts of the judge under one condition.

    Attributes:
        condition: ``render`` as drawn, ``round_trip`` through the autoencoder, ``regenerated`` after noise
            to an early timestep and denoising.
        confusion: int64 (classes, classes) per head, true class by row, judged class by column.
        seed: Of the scenes.
        n: Pictures.
    """

    condition: Condition
    confusion: dict[str, np.ndarray]
    seed: int
    n: int

    def accuracy(self, head: str) -> tuple[int, int]:
        """Right, and all, of the pictures that have the factor."""
        matrix = self.confusion[head]
        return int(matrix.trace()), int(matrix.sum())


def cards_folder() -> Path:
    """Where the shipped cards lie."""
    return Path(__file__).parent / "cards"


def measure_card(judged: Judged, scenes: Sequence[Scene], condition: Condition, seed: int) -> Card:
    """Counts the judge's readings of pictures of ``scenes`` against their records."""
    if len(judged) != len(scenes):
        raise UsageError(f"{len(scenes)} scenes need as many judged pictures, got {len(judged)}.")
    truth = dict(zip(HEADS, label_matrix(list(scenes)).T, strict=True))
    confusion = {}
    for head, classes in HEADS.items():
        has = truth[head] != ABSENT
        matrix = np.zeros((len(classes), len(classes)), np.int64)
        np.add.at(matrix, (truth[head][has], judged.classes(head)[has]), 1)
        confusion[head] = matrix
    return Card(condition, confusion, seed, len(scenes))


def write_card(card: Card, folder: Path) -> Path:
    """Writes ``folder/<condition>.json`` with one matrix row per line."""
    heads = {
        head: {"classes": list(HEADS[head]), "confusion": matrix.tolist()}
        for head, matrix in card.confusion.items()
    }
    text = json.dumps({"condition": card.condition, "seed": card.seed, "n": card.n, "heads": heads}) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{card.condition}.json"
    path.write_text(text.replace("], [", "],\n  [").replace('}, "', '},\n "'), "utf-8")
    return path


def load_card(condition: Condition, folder: Path | None = None) -> Card:
    """The shipped card of ``condition``.

    Raises:
        BaseUnavailable: It is not there, or was made for other classes than the judge has.
    """
    path = (folder or cards_folder()) / f"{condition}.json"
    try:
        loaded = json.loads(path.read_text("utf-8"))
        heads = {
            head: (tuple(entry["classes"]), np.array(entry["confusion"]))
            for head, entry in loaded["heads"].items()
        }
        if {head: classes for head, (classes, _) in heads.items()} != HEADS:
            raise ValueError("other classes")
        return Card(
            condition, {head: matrix for head, (_, matrix) in heads.items()}, loaded["seed"], loaded["n"]
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BaseUnavailable(
            f"The judge's {condition} card cannot be read; make it with auditor prove world."
        ) from error


def corrected(
    judged: Judged,
    head: str,
    *,
    rng: np.random.Generator,
    condition: Condition = "regenerated",
    level: float = 0.95,
) -> CorrectedRates:
    """Class rates of ``head`` over the pictures, corrected for the judge's errors, with intervals.

    Source of the correction: :func:`auditor.stats.correct_rates`.
    """
    return correct_rates(judged.counts(head), load_card(condition).confusion[head], rng=rng, level=level)
