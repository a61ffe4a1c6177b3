"""How much of a machine's arithmetic a step uses."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["flops_of", "matmul_peak"]


def flops_of(work: Callable[[], None]) -> int:
    """Floating-point operations of the products and convolutions in a piece of work, a multiply-add being two."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def matmul_peak(device: torch.device, dtype: torch.dtype, repeats: int = 9) -> float:
    """Operations a second of a large square matrix product: the fastest of several, by the clock of the device."""
    side = 8192 if device.type == "cuda" else 1024
    left, right = (torch.ones(side, side, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(repeats):
        start = _now(device)
        left @ right
        seconds.append(_now(device) - start)
    return float(2 * side**3 / min(seconds))


def _now(device: torch.device) -> float:
    """Seconds; of the processor where the processor computes, so that other processes do not count."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()
