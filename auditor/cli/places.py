"""Where runs and caches live when nobody says where."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from auditor.errors import OutputError, UsageError
from auditor.text import inert

__all__ = ["fresh_folder", "new_folder", "state_dir"]

_NAME = "personalized-model-auditor"


def state_dir() -> Path:
    """The folder for runs without ``-o``: ``$XDG_STATE_HOME``, or ``~/.local/state``, and our name in it."""
    root = os.environ.get("XDG_STATE_HOME", "")
    return (Path(root) if root else Path.home() / ".local" / "state") / _NAME


def fresh_folder(parent: Path, stem: str) -> Path:
    """A folder name under ``parent`` that is not taken yet: ``stem``, ``stem-2``, ``stem-3`` and so on.

    Raises:
        OutputError: ``parent`` cannot be made or written.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for number in range(1, 100_000):
            folder = parent / (stem if number == 1 else f"{stem}-{number}")
            if not folder.exists():
                return folder
    except OSError as error:
        raise OutputError(
            f"cannot write in '{inert(str(parent), 300)}' ({error.strerror}); choose another place with -o"
        ) from error
    raise OutputError(f"'{inert(str(parent), 300)}' is full of runs; remove some")


def new_folder(out: Path, begun: str = "", beside: Collection[str] = ()) -> Path:
    """Checks that ``out`` can become the folder of something new, and makes it.

    A folder with the file ``begun``, and nothing else but what ``beside`` names, is one that an interrupted command
    left, and will do.

    Raises:
        UsageError: it holds something already, which is never written over.
        OutputError: it cannot be made or written.
    """
    shown = inert(str(out), 300)
    try:
        held = {item.name for item in out.iterdir()} if out.is_dir() else set()
        left = begun in held and held <= {begun, *beside}
        if out.exists() and (not out.is_dir() or (held and not left)):
            raise UsageError(f"'{shown}' exists already and is not written over; name a new folder with -o")
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot write in '{shown}' ({error.strerror}); choose another place with -o"
        ) from error
    if not os.access(out, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write in '{shown}' (no permission); choose another place with -o")
    return out
