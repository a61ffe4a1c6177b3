"""Progress for people, on stderr: a bar with the time left on a terminal, one line per probe elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Protocol, TextIO

from auditor.text import inert

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["Display", "PlainDisplay", "QuietDisplay", "RichDisplay", "choose_display"]


class Display(Protocol):
    """Told what happens; shows it, or does not."""

    def started(self, probes: int) -> None:
        """The plan is frozen and has this many probes."""
        ...

    def probe_started(self, probe_id: str) -> None:
        """A probe begins."""
        ...

    def progress(self, probe_id: str, done: int, total: int, label: str) -> None:
        """How far the probe is."""
        ...

    def probe_finished(self, probe_id: str, outcome: str, reason: str, seconds: float) -> None:
        """A probe ended, was skipped, or had been done before."""
        ...

    def close(self) -> None:
        """Nothing more will come; called also when the audit fails."""
        ...


class QuietDisplay:
    """Shows nothing."""

    def started(self, probes: int) -> None:
        """Shows nothing."""

    def probe_started(self, probe_id: str) -> None:
        """Shows nothing."""

    def progress(self, probe_id: str, done: int, total: int, label: str) -> None:
        """Shows nothing."""

    def probe_finished(self, probe_id: str, outcome: str, reason: str, seconds: float) -> None:
        """Shows nothing."""

    def close(self) -> None:
        """Shows nothing."""


class PlainDisplay(QuietDisplay):
    """One line per probe, when it ends.

    Args:
        stream: where to; standard error if None.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._total = self._done = 0

    def started(self, probes: int) -> None:
        """Keeps the number of probes."""
        self._total = probes

    def probe_finished(self, probe_id: str, outcome: str, reason: str, seconds: float) -> None:
        """Writes the line."""
        self._done += 1
        why = f": {inert(reason, 200)}" if reason else ""
        line = f"[{self._done}/{self._total}] {probe_id} {outcome} ({seconds:.1f} s){why}"
        self._stream.write(line + "\n")
        self._stream.flush()


class RichDisplay(QuietDisplay):
    """Two bars with the time left: all probes, and the probe at work.

    Args:
        stream: a terminal; standard error if None.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._bars: Progress | None = None
        self._all: TaskID | None = None
        self._current: TaskID | None = None

    def started(self, probes: int) -> None:
        """Opens the bars."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        # markup off: labels may quote an artifact.
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(file=self._stream, markup=False, highlight=False),
            transient=True,
        )
        self._all = self._bars.add_task("audit", total=probes)
        self._bars.start()

    def probe_started(self, probe_id: str) -> None:
        """Adds a bar for the probe."""
        if self._bars is not None:
            self._current = self._bars.add_task(probe_id, total=None)

    def progress(self, probe_id: str, done: int, total: int, label: str) -> None:
        """Moves the probe's bar."""
        if self._bars is not None and self._current is not None:
            shown = f"{probe_id} {inert(label, 40)}".strip()
            self._bars.update(self._current, completed=done, total=total, description=shown)

    def probe_finished(self, probe_id: str, outcome: str, reason: str, seconds: float) -> None:
        """Writes a line above the bars and moves on."""
        if self._bars is None or self._all is None:
            return
        why = f": {inert(reason, 200)}" if reason else ""
        self._bars.console.print(f"{outcome:>12}  {probe_id} ({seconds:.1f} s){why}")
        if self._current is not None:
            self._bars.remove_task(self._current)
            self._current = None
        self._bars.advance(self._all)

    def close(self) -> None:
        """Takes the bars away."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None


def choose_display(quiet: bool = False, stream: TextIO | None = None) -> Display:
    """The display that fits: none if ``quiet``, bars on a terminal, plain lines elsewhere."""
    target = stream or sys.stderr
    if quiet:
        return QuietDisplay()
    return RichDisplay(target) if target.isatty() else PlainDisplay(target)
