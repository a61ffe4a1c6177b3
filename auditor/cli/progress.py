"""Progress of one long task, on stderr: a bar with the time left on a terminal, a few lines elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from auditor.text import inert

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["TaskProgress"]


class TaskProgress:
    """Satisfies :class:`auditor.contracts.Progress`; a context manager.

    Args:
        title: what is being done.
        stream: where to; standard error if None.
    """

    def __init__(self, title: str, stream: TextIO | None = None) -> None:
        self._title = title
        self._stream = stream or sys.stderr
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._told: tuple[str, int] = ("", -1)

    def __enter__(self) -> Self:
        if self._stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=Console(file=self._stream, markup=False, highlight=False),
                transient=True,
            )
            self._task = self._bar.add_task(self._title, total=None)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int, label: str = "") -> None:
        """Shows how far the task is; without a terminal one line a quarter of it.

        What a label says behind a comma may change with every step (a live loss) and makes no line of its own.
        """
        shown = f"{self._title}: {inert(label, 60)}" if label else self._title
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total, description=shown)
            return
        quarter = 4 * done // max(1, total)
        step = (label.partition(",")[0], quarter)
        if step != self._told:
            self._told = step
            self._stream.write(f"{shown} {done}/{total}\n")
            self._stream.flush()
