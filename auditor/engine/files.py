"""Writing files and folders so that they are there whole or not at all, and saying plainly why one could not be."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from auditor.errors import OutputError
from auditor.text import inert

if sys.platform != "win32":
    import fcntl

__all__ = [
    "LOCK", "TEMPORARY", "StoreFailure", "exclusive", "output_errors", "whole_folder", "write_all", "write_atomic",
]  # fmt: skip

TEMPORARY = ".run-"
"""What the names of temporary and lock files start with."""

LOCK = f"{TEMPORARY}lock"


class StoreFailure(OutputError):
    """The record of a run could not be kept, so the run stops; no probe is blamed for it."""


@contextlib.contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turns ``OSError`` into a :class:`StoreFailure` of one sentence about ``path``."""
    try:
        yield
    except OSError as problem:
        raise StoreFailure(f"cannot write {inert(str(path), 300)}: {_explain(problem)}") from problem


def write_atomic(path: Path, data: bytes) -> None:
    """Writes ``data`` beside ``path``, makes it durable, and moves it into place.

    Raises:
        OutputError: it could not be written; ``path`` is as it was before.
    """
    with output_errors(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY)
        temporary = Path(name)
        try:
            try:
                write_all(handle, data)
                os.fsync(handle)
            finally:
                os.close(handle)
            temporary.chmod(0o644)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_all(handle: int, data: bytes) -> None:
    """Writes every byte; ``os.write`` may take fewer than it was given."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]


def sync_folder(folder: Path) -> None:
    """Makes new names in ``folder`` durable, where the system can."""
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def whole_folder(out: Path, *, shared: bool = False) -> Iterator[Path]:
    """Yields a new folder beside ``out``, which gets that name when everything is written; an exception removes it.

    Args:
        out: appears when the block ends; folders above it are made.
        shared: other processes make the same folder, and what the first one made is kept.

    Raises:
        OutputError: ``out`` cannot be written, or is there by then and not ``shared``.
    """
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    # What a killed process of the same number left behind.
    shutil.rmtree(part, ignore_errors=True)
    with output_errors(out):
        part.mkdir(parents=True)
    try:
        yield part
        with output_errors(out):
            try:
                part.replace(out)
            except OSError:
                if not (shared and out.is_dir()):
                    raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Holds the folder's lock; the system frees it when the process ends, however it ends.

    Raises:
        OutputError: another process holds it, or the lock file cannot be made.
    """
    path = folder / LOCK
    with output_errors(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if sys.platform != "win32":
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OutputError(
                    f"another audit is writing to {inert(str(folder), 300)}; "
                    "wait for it or choose another directory"
                ) from None
        yield
    finally:
        os.close(handle)


def _explain(problem: OSError) -> str:
    if problem.errno in (errno.ENOSPC, errno.EDQUOT):
        return "no space is left on the device; free some, then resume the run"
    if problem.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "no permission; choose another directory"
    if problem.errno in (errno.ENOTDIR, errno.EEXIST):
        return "a file is in the way; choose another directory"
    return (problem.strerror or type(problem).__name__).lower()
