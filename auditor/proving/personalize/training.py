"""One training as a user runs it, and what it took: numbers trained, bytes written, seconds of the processor."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from auditor.contracts import Progress
from auditor.pipeline.components import Components
from auditor.proving.personalize.opened import files_of
from auditor.proving.personalize.recipes import RECIPES, params_of
from auditor.proving.personalize.targets import Target, masks_of
from auditor.proving.pictures import write_pictures
from auditor.registry import METHODS
from auditor.world.render import render_batch

__all__ = ["Cost", "counted", "train"]


@dataclass(frozen=True)
class Cost:
    """What a training took.

    Attributes:
        parameters: numbers that the optimiser held at once.
        bytes: of the files that the method says it wrote.
        seconds: of the processor, over all its cores: encoding, prior pictures and saving included.
        steps: optimiser steps asked for.
        share: of the default recipe's steps.
    """

    parameters: int
    bytes: int
    seconds: float
    steps: int
    share: float


def train(
    base: Components, method: str, target: Target, seed: int, folder: Path, progress: Progress
) -> tuple[Path, Cost, dict[str, Any]]:
    """Trains into ``folder``, which is made anew, from PNGs as a user has them.

    Returns:
        The folder with the method's files, what it took, and its parameters, in JSON.
    """
    shutil.rmtree(folder, ignore_errors=True)
    recipe = RECIPES[method]
    scenes = target.train[: recipe.pictures or None]
    data = write_pictures(render_batch(scenes), folder / "pictures")
    params = params_of(method, target, seed, _beside(method, target, folder))
    saved = folder / "saved"
    saved.mkdir()
    with counted() as numbers:
        start = time.process_time()
        METHODS.get(method).fit(base, data, params, saved, progress)
        seconds = time.process_time() - start
    default = METHODS.get(method).params().steps
    size = sum(path.stat().st_size for path in files_of(saved))
    told = {name: value for name, value in asdict(params).items() if not isinstance(value, Path)}
    return (
        saved,
        Cost(max(numbers), size, round(seconds, 2), params.steps, round(params.steps / default, 3)),
        told,
    )


def _beside(method: str, target: Target, folder: Path) -> dict[str, Path]:
    """Folders that some methods take beside the pictures."""
    found = {}
    if method == "hifi":
        found["masks"] = write_pictures(masks_of(target.train), folder / "masks")
    if target.aux:
        found["aux"] = write_pictures(render_batch(target.aux), folder / "aux")
    return found


@contextmanager
def counted() -> Iterator[list[int]]:
    """Inside the block every optimiser that takes a step adds how many numbers it holds."""
    seen: dict[int, int] = {}
    numbers: list[int] = []

    def count(optimizer: Optimizer, *_: Any) -> None:
        if id(optimizer) not in seen:
            seen[id(optimizer)] = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
            numbers.append(seen[id(optimizer)])

    handle = register_optimizer_step_pre_hook(count)
    try:
        yield numbers
    finally:
        handle.remove()
