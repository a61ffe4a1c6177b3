"""Reading ranges of an open file or of bytes, without a memory map.

A map of a file that somebody truncates kills the reading process; positioned reads return less instead.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from auditor.errors import RefusedArtifact, UsageError
from auditor.text import inert

__all__ = ["ByteSource", "open_regular", "open_source"]

_CHUNK = 1 << 20


class ByteSource:
    """A window on a file descriptor or on bytes.

    Args:
        data: bytes, or the descriptor of a regular file (which stays the caller's to close).
        start: first byte of the window.
        size: length of the window; to the end if None.
    """

    def __init__(self, data: bytes | int, start: int = 0, size: int | None = None) -> None:
        self._data = data
        self._start = start
        # What readers of the same bytes need not work out again; read_archive keeps its outcome here.
        self.known: dict[object, object] = {}
        whole = os.fstat(data).st_size if isinstance(data, int) else len(data)
        self.size = max(0, whole - start if size is None else min(size, whole - start))

    @classmethod
    def snapshot(cls, fd: int, up_to: int) -> ByteSource:
        """A window on the whole of an open file; on a copy in memory if it has at most ``up_to`` bytes.

        A copy is quicker to read in pieces, and every reading of it sees the same bytes.
        """
        source = cls(fd)
        return cls(source.read(0, source.size)) if source.size <= up_to else source

    def read(self, offset: int, length: int) -> bytes:
        """Returns up to ``length`` bytes from ``offset``; fewer at the end of the window."""
        left = self.size - offset
        if length > left:
            length = left
        if offset < 0 or length <= 0:
            return b""
        begin = self._start + offset
        if isinstance(self._data, bytes):
            return self._data[begin : begin + length]
        pieces: list[bytes] = []
        while length > 0:
            piece = os.pread(self._data, min(length, 1 << 30), begin)
            if not piece:
                break
            pieces.append(piece)
            begin, length = begin + len(piece), length - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def window(self, offset: int, length: int) -> ByteSource:
        """Returns a narrower window."""
        return ByteSource(self._data, self._start + offset, max(0, min(length, self.size - offset)))

    def chunks(self) -> Iterator[bytes]:
        """Yields the whole window in pieces of at most one MiB."""
        for offset in range(0, self.size, _CHUNK):
            yield self.read(offset, _CHUNK)


@contextmanager
def open_source(path: str | Path) -> Iterator[ByteSource]:
    """Opens a regular file for positioned reads.

    Raises:
        UsageError: there is no such file, or it cannot be read.
        RefusedArtifact: it is a device, a pipe or another special file.
    """
    fd = open_regular(path)
    try:
        yield ByteSource(fd)
    finally:
        os.close(fd)


def open_regular(path: str | Path) -> int:
    """Like :func:`open_source`, but returns a descriptor that the caller closes."""
    shown = inert(str(path))
    try:
        # O_NONBLOCK: opening a named pipe must not wait for a writer.
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "the path is not valid"
        raise UsageError(f"cannot read '{shown}': {reason}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise RefusedArtifact(f"'{shown}' is not a regular file; give the path of a file")
    return fd
