"""K adapters in one batched pass against the same adapters one at a time."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from auditor.personalize.dreambooth_lora import DreamBoothLora, TrainedLora, train_dreambooth_lora
from auditor.personalize.many import Job, train_many
from auditor.pipeline.components import Components
from auditor.proving.personalize_speed.clock import Lap, now

__all__ = ["Together", "time_together"]


@dataclass
class Together:
    """What was timed.

    Attributes:
        adapters: K.
        steps: of each adapter in each round.
        together: laps of the batched pass.
        apart: laps of the adapters one after the other.
        difference: largest over adapters of ``||ours - alone|| / ||alone||`` of the output factors after a round.
    """

    adapters: int
    steps: int
    together: list[Lap] = field(default_factory=list)
    apart: list[Lap] = field(default_factory=list)
    difference: float = 0.0

    def ratios(self, clock: str) -> list[float]:
        """Apart by together in each round, ``clock`` or ``processor``."""
        return [getattr(b, clock) / getattr(a, clock) for a, b in zip(self.together, self.apart, strict=True)]

    def an_hour(self, clock: str, whole: int) -> float:
        """Adapters of ``whole`` steps in an hour of training steps by the batched pass, median over rounds."""
        lap = statistics.median(getattr(one, clock) for one in self.together)
        return float(3600.0 * self.adapters * self.steps / (lap * whole))


def time_together(
    base: Components, adapters: int, rounds: int, steps: int, batch: int, tell: Callable[[], None]
) -> Together:
    """Trains K adapters with a prior both ways in every round, from other seeds in each; what comes before the first
    step of a training (pictures, prompts, prior) is not timed.

    Args:
        base: a loaded base with a UNet.
        adapters: K.
        rounds: how often.
        steps: optimiser steps of each adapter.
        batch: instance rows a step, and as many prior rows.
        tell: called after each round.
    """  # noqa: D205
    side, found = base.image_size, Together(adapters, steps)
    plain = DreamBoothLora(
        prompt="a picture of sks person", class_prompt="a picture of a person", class_images=2, steps=steps + 1,
        batch=batch,
    )  # fmt: skip
    for number in range(rounds):
        jobs = []
        for k in range(adapters):
            generator = torch.Generator().manual_seed(number * adapters + k)
            pictures = torch.rand(4, 3, side, side, generator=generator) * 2 - 1
            jobs.append(Job(pictures, replace(plain, seed=number * adapters + k)))
        watch = _Watch(base.device)
        ours = train_many(base, jobs, watch)
        found.together.append(watch.lap)
        alone = []
        watch = _Watch(base.device)
        for job in jobs:
            alone.append(train_dreambooth_lora(base, job.images, job.params, watch))
        found.apart.append(watch.lap)
        found.difference = max(found.difference, *map(_difference, ours, alone))
        tell()
    return found


class _Watch:
    """Adds up the time from the first step of each training to its last."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._last, self.lap = device, Lap(), Lap()

    def __call__(self, done: int, total: int, label: str = "") -> None:
        reading = now(self._device)
        if done > 1:
            self.lap += reading - self._last
        self._last = reading


def _difference(ours: TrainedLora, alone: TrainedLora) -> float:
    one, other = _outputs(ours.unet), _outputs(alone.unet)
    return float((one - other).norm() / other.norm())


def _outputs(state: Mapping[str, Tensor]) -> Tensor:
    """Output factors, which start at zero: what training made."""
    parts: list[Any] = [state[key].flatten() for key in sorted(state) if "lora_B" in key]
    return torch.cat(parts)
