"""Two clocks of a device, read when it has done everything that it was given."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

__all__ = ["Lap", "now"]


@dataclass(frozen=True)
class Lap:
    """Seconds between two readings, or one reading: by the clock, and of this process on all processors."""

    clock: float = 0.0
    processor: float = 0.0

    def __add__(self, other: Lap) -> Lap:
        return Lap(self.clock + other.clock, self.processor + other.processor)

    def __sub__(self, other: Lap) -> Lap:
        return Lap(self.clock - other.clock, self.processor - other.processor)


def now(device: torch.device) -> Lap:
    """A reading; only differences of readings mean anything."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return Lap(time.perf_counter(), time.process_time())
