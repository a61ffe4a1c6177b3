"""How much of a machine's arithmetic a step uses."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from auditor.proving.personalize_speed.clock import now

__all__ = ["flops_of", "matmul_peak"]


def flops_of(work: Callable[[], None]) -> int:
    """Floating-point operations of the products and convolutions in a piece of work, a multiply-add being two."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def matmul_peak(device: torch.device, dtype: torch.dtype, repeats: int = 9) -> float:
    """Operations a second of a large square matrix product: the fastest of several.

    Where the processor computes, its own time is what counts, so that other processes do not.
    """
    side = 8192 if device.type == "cuda" else 1024
    left, right = (torch.ones(side, side, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(repeats):
        start = now(device)
        left @ right
        lap = now(device) - start
        seconds.append(lap.clock if device.type == "cuda" else lap.processor)
    return float(2 * side**3 / min(seconds))
