"""Rendered ahead: one memory-mapped block of pixels, with the scene records beside it."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from auditor.world.factors import Scene, draw_scene, from_record, to_record
from auditor.world.render import render
from auditor.world.train.config import TRAIN_SCENES

__all__ = ["SceneData", "to_unit"]


class SceneData:
    """``TRAIN_SCENES`` scenes of the base distribution, rendered once into ``folder``."""

    def __init__(self, folder: Path, count: int = TRAIN_SCENES, seed: int = 1) -> None:
        self.folder, self.count, self.seed = folder, count, seed
        self._pixels_path = folder / f"scenes-{seed}-{count}.npy"
        self._records_path = folder / f"scenes-{seed}-{count}.jsonl"
        if not self._records_path.exists():
            self._render()

    @cached_property
    def pixels(self) -> np.ndarray:
        """uint8 (count, 64, 64, 3), memory-mapped."""
        return np.asarray(np.load(self._pixels_path, mmap_mode="r"))

    @cached_property
    def scenes(self) -> list[Scene]:
        """The records."""
        with self._records_path.open() as lines:
            return [from_record(json.loads(line)) for line in lines]

    def _render(self) -> None:
        rng = np.random.default_rng(self.seed)
        pixels = np.lib.format.open_memmap(self._pixels_path, "w+", np.uint8, (self.count, 64, 64, 3))
        part = self._records_path.with_suffix(".part")
        with part.open("w") as lines:
            for i in range(self.count):
                scene = draw_scene(rng)
                pixels[i] = render(scene)
                lines.write(json.dumps(to_record(scene)) + "\n")
        pixels.flush()
        part.replace(self._records_path)


def to_unit(pixels: np.ndarray, device: torch.device | None = None) -> Tensor:
    """uint8 (N, H, W, 3) to float32 (N, 3, H, W) in [-1, 1]."""
    return (
        torch.from_numpy(np.require(pixels, requirements=["C", "W"])).to(device).permute(0, 3, 1, 2).float()
        / 127.5
        - 1
    )
