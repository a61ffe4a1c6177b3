"""Scanning many paths side by side: what is said of each is what it would be told alone, in the same order."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

from auditor.cli.scan_report import ScanOutcome, Stamp, failed_outcome, scan_outcome
from auditor.errors import AuditorError

if TYPE_CHECKING:
    from auditor.artifact.pickle_guard import Guard

__all__ = ["scan_each"]

_MOST_LANES = 8


def scan_each(paths: Sequence[Path], stamp: Stamp, meaning: bool = True) -> Iterator[ScanOutcome]:
    """Scans every path; yields the outcomes in the order of ``paths``.

    Hashing and counting release the interpreter, and pickles are read in other processes, so files are
    examined side by side, one lane per processor. Each lane has a guard of its own, and every pickle a
    process of its own.

    Args:
        paths: files and model folders.
        stamp: time and release for the reports.
        meaning: whether to say what each file is; without, only whether it is safe to open.
    """
    from auditor.artifact.pickle_guard import Guard

    lanes = min(len(paths), _MOST_LANES, len(os.sched_getaffinity(0)))
    with ExitStack() as stack:
        idle: SimpleQueue[Guard] = SimpleQueue()
        for _ in range(lanes):
            idle.put(stack.enter_context(Guard()))
        if lanes < 2:
            yield from (_scan_one(path, stamp, idle, meaning) for path in paths)
            return
        pool = ThreadPoolExecutor(lanes)
        # Before the guards are closed, and at once when a person interrupts.
        stack.callback(pool.shutdown, cancel_futures=True)
        yield from pool.map(lambda path: _scan_one(path, stamp, idle, meaning), paths)


def _scan_one(path: Path, stamp: Stamp, idle: SimpleQueue[Guard], meaning: bool) -> ScanOutcome:
    from auditor.artifact.identify import identify

    guard = idle.get()
    try:
        with identify(path, guard=guard, meaning=meaning) as artifact:
            return scan_outcome(artifact, stamp)
    except AuditorError as error:
        return failed_outcome(path, error, stamp)
    finally:
        idle.put(guard)
