"""The attribute judge: every factor of a picture, read by one network from disturbed renders."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from auditor.world.labels import ABSENT, HEADS, label_matrix
from auditor.world.nets import Judge
from auditor.world.train.augment import ROUND_TRIPS_FROM, disturb, round_trips
from auditor.world.train.config import JUDGE, RECIPES
from auditor.world.train.data import SceneData, to_unit
from auditor.world.train.loop import fit

__all__ = ["build_judge", "train_judge"]

_POOL = 8000


def build_judge() -> Judge:
    """A fresh judge of the embedded size."""
    torch.manual_seed(3)
    return Judge(**JUDGE)


def train_judge(data: SceneData, folder: Path, device: torch.device) -> Judge:
    """Trains on all scenes, later also on :data:`_POOL` of them after a round trip; returns EMA weights."""
    judge = build_judge().to(device).to(memory_format=torch.channels_last)
    recipe = RECIPES["judge"]
    targets = torch.from_numpy(label_matrix(data.scenes))

    @cache
    def pool() -> np.ndarray:
        return round_trips(data.pixels[:_POOL], folder, device, seed=recipe.seed)

    def step(i: int, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        rows = rng.integers(data.count, size=recipe.batch)
        pixels = data.pixels[rows]
        if i >= recipe.steps * ROUND_TRIPS_FROM:
            half = recipe.batch // 2
            rows[:half] = rng.integers(_POOL, size=half)
            pixels[:half] = pool()[rows[:half]]
        images = disturb(to_unit(pixels, device), generator).contiguous(memory_format=torch.channels_last)
        return _loss(judge(images), targets[rows].to(device))

    fit("judge", judge, step, recipe, folder, device)
    return judge


def _loss(logits: dict[str, Tensor], targets: Tensor) -> Tensor:
    """Mean over factors of the cross entropy over the images that have the factor."""
    parts = [
        F.cross_entropy(logits[head].float(), target, ignore_index=ABSENT, reduction="sum")
        / max(1, int((target != ABSENT).sum()))
        for head, target in zip(HEADS, targets.T, strict=True)
    ]
    return torch.stack(parts).mean()
