"""How much memory and time a whole command may take, whatever it was handed.

One thread watches. At a cap it interrupts the main thread with one clear sentence, and the command ends in
order, with everything kept that was finished before. Code that does not come back to the interpreter within a
grace period ends with the process, by the same sentence and exit code. Nothing goes on after a cap: an
interruption at a random place may have left a model half switched.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from auditor.errors import EXIT_AUDIT_ERROR, MemoryCap, ResourceCap, TimeCap

__all__ = ["NO_CAPS", "Caps", "available_memory", "capped", "resident_memory"]

_TICK = 0.05
_GRACE = 20.0
_HEADROOM = 1.25
"""From this share of the memory cap on nothing is waited for."""
_SIGNAL = signal.SIGUSR1 if hasattr(signal, "SIGUSR1") else None
_MIB = 1 << 20


@dataclass(frozen=True)
class Caps:
    """Caps on one process; None is no cap.

    Attributes:
        memory_bytes: resident memory, with that of torch and its libraries.
        seconds: by the clock.
    """

    memory_bytes: int | None = None
    seconds: float | None = None


NO_CAPS = Caps()


@contextmanager
def capped(caps: Caps, say: Callable[[str], None] | None = None) -> Iterator[None]:
    """Holds the process to ``caps`` for the length of the block. For the main thread; elsewhere it does nothing.

    Args:
        caps: the caps.
        say: told the sentence when the process has to end without coming back; prints to stderr by default.

    Raises:
        MemoryCap: the memory cap was reached. TimeCap: the time cap was.
    """
    main = threading.current_thread() is threading.main_thread()
    if caps == NO_CAPS or _SIGNAL is None or not main:
        yield
        return
    watch = _Watch(caps, say or _to_stderr)
    before = signal.signal(_SIGNAL, watch.interrupt)
    thread = threading.Thread(target=watch.run, name="caps", daemon=True)
    thread.start()
    try:
        yield
    finally:
        watch.over.set()
        thread.join()
        signal.signal(_SIGNAL, before)


class _Watch:
    """What the watching thread and the signal handler share."""

    def __init__(self, caps: Caps, say: Callable[[str], None]) -> None:
        self._caps, self._say = caps, say
        self._began = time.monotonic()
        self._main = threading.get_ident()
        self._reached: ResourceCap | None = None
        self.over = threading.Event()

    def run(self) -> None:
        """Until the block ends: looks, interrupts once a cap is reached, and ends the process if that is not heard."""
        asked, found = 0.0, None
        while not self.over.wait(_TICK):
            found = found or self._look()
            if found is None:
                continue
            now = time.monotonic()
            if not asked:
                self._reached, asked = found, now
                assert _SIGNAL is not None
                # A real signal, so that a sleeping system call ends as well.
                signal.pthread_kill(self._main, _SIGNAL)
            elif now - asked > _GRACE or self._far_beyond():
                self._say(str(found))
                os._exit(EXIT_AUDIT_ERROR)

    def interrupt(self, _signal: int, _frame: FrameType | None) -> None:
        """In the main thread: raises what was reached."""
        reached, self._reached = self._reached, None
        if reached is not None and not self.over.is_set():
            raise reached

    def _look(self) -> ResourceCap | None:
        seconds, most = self._caps.seconds, self._caps.memory_bytes
        if seconds is not None and time.monotonic() - self._began > seconds:
            return TimeCap(f"stopped at the time cap of {seconds:g} seconds; raise it with --max-time")
        if most is not None and resident_memory() > most:
            return MemoryCap(f"stopped at the memory cap of {most // _MIB:,} MiB; raise it with --max-memory")
        return None

    def _far_beyond(self) -> bool:
        most = self._caps.memory_bytes
        return most is not None and resident_memory() > _HEADROOM * most


def resident_memory() -> int:
    """Bytes of this process that are in memory; where the system does not tell, the most there ever were."""
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return _peak_memory()


def available_memory() -> int | None:
    """Bytes that this process could still take, or None where the system does not tell.

    The least of what is free on the machine and what a control group (of a container, say) leaves.
    """
    found = [each for each in (_machine_memory(), _group_memory()) if each is not None]
    return min(found, default=None)


def _machine_memory() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _group_memory() -> int | None:
    folder = Path("/sys/fs/cgroup")
    try:
        most = (folder / "memory.max").read_text("ascii").strip()
        used = int((folder / "memory.current").read_text("ascii"))
    except (OSError, ValueError):
        return None
    return None if most == "max" else max(0, int(most) - used)


def _peak_memory() -> int:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _to_stderr(sentence: str) -> None:
    os.write(2, f"auditor: {sentence}\n".encode())
