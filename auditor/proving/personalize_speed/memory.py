"""The most memory that a piece of work had at once."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

__all__ = ["Peak", "peak_memory"]

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Peak:
    """Bytes; None where this machine does not tell.

    Attributes:
        most: of the whole process, or of the accelerator.
        added: of it, what was not there when the work began.
    """

    most: int | None = None
    added: int | None = None


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Measures the block: memory of an accelerator that tensors had, or resident memory of the process on Linux."""
    peak = Peak()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        peak.most = torch.cuda.max_memory_allocated(device)
        peak.added = peak.most - before
        return
    resident = _forget_peak()
    yield peak
    if resident is not None:
        peak.most = _status("VmHWM")
        peak.added = max(0, peak.most - resident)


def _forget_peak() -> int | None:
    """Gives freed memory back and starts the high-water mark anew; bytes that are left, None where neither is known."""
    try:
        # What an earlier piece of work has freed must not stand for what this one needs.
        ctypes.CDLL(None).malloc_trim(0)
        _CLEAR.write_text("5")
        return _status("VmRSS")
    except (OSError, AttributeError):
        return None


def _status(name: str) -> int:
    lines = (line.split() for line in _STATUS.read_text().splitlines())
    return next(int(words[1]) * 1024 for words in lines if words[0] == f"{name}:")
