"""The guarded processes, from the side that asks."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from auditor.artifact.limits import Limits
from auditor.errors import AuditorError, RefusedArtifact
from auditor.text import inert

__all__ = ["Guard"]

_WORKER = Path(__file__).with_name("worker.py")
_ROOT = Path(__file__).resolve().parents[3]
_LONGEST_ANSWER = 64 << 20


class Guard:
    """Examines files one after the other in confined processes.

    A context manager; nothing is started before the first question. A server that never reads an artifact is
    started once and forks. One process reads a run of files as long as every one of them is allowed; a file that is
    anything else is the last that its process reads. A file that is stopped at a limit in a process that had read
    others before is examined again in one of its own, so that no neighbour has a say in it. Not for several
    threads at once: give each its own.
    """

    def __init__(self) -> None:
        self._server: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._site = ""
        self._shared = False
        self._read = 0  # files that the process which answers next has read already

    def ask(self, fd: int, limits: Limits, out: int | None = None) -> dict[str, Any]:
        """Has one open file examined.

        Args:
            fd: the artifact, a regular file.
            limits: caps, on time and memory too.
            out: where its tensors go as safetensors if it is allowed; they are not written if None.

        Returns:
            What the worker said; ``{"limit": why}`` if it was stopped.

        Raises:
            RefusedArtifact: the file changed while it was read.
            AuditorError: the guard itself failed.
        """
        before = os.fstat(fd)
        answer = self._ask(fd, limits, out)
        if "again" in answer or ("limit" in answer and self._shared):
            if out is not None:
                os.ftruncate(out, 0)
                os.lseek(out, 0, os.SEEK_SET)
            answer = self._ask(fd, limits, out, alone=True)
        after = os.fstat(fd)
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise RefusedArtifact("the file changed while it was read; copy it to a safe place and try again")
        if "failed" in answer:
            _fail(str(answer["failed"]))
        return answer

    def close(self) -> None:
        """Stops the server; the guard may be used again afterwards."""
        if self._control is not None:
            self._control.close()
            self._control = None
        self._read = 0
        if self._server is not None:
            with suppress(ProcessLookupError):
                # Its children too: the server leads a session of its own.
                os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait()
            self._server = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, fd: int, limits: Limits, out: int | None, alone: bool = False) -> dict[str, Any]:
        control = self._started()
        site = "" if out is None else self._numpy()
        request = json.dumps({"limits": asdict(limits), "site": site, "alone": alone})
        self._shared, self._read = self._read > 0, self._read + 1
        deadline = time.monotonic() + 4 * limits.seconds
        read_end, write_end = os.pipe()
        try:
            try:
                fds = [fd, write_end] if out is None else [fd, write_end, out]
                socket.send_fds(control, [request.encode()], fds)
            except OSError as error:
                self.close()
                _fail(f"its server is gone ({error.strerror})")
            finally:
                os.close(write_end)
            told = _read_to_end(read_end, deadline)
        finally:
            os.close(read_end)
        if told is None or not _wait(control, deadline):
            self.close()
            return {"limit": "time"}
        status = control.recv(16)
        if not status:
            self.close()
            _fail("its server is gone")
        if int(status) < 0:
            self._read = 0
            return {"limit": f"signal {-int(status)}"}
        try:
            answer = json.loads(told)
        except ValueError:
            answer = None
        if int(status) or not isinstance(answer, dict):
            self._read = 0
            _fail("no answer")
        if answer.pop("last"):
            self._read = 0
        return answer

    def _started(self) -> socket.socket:
        if self._server is not None and self._server.poll() is not None:
            # Also where a process that it forked would still answer.
            self.close()
            _fail("its server is gone")
        if self._control is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                self._server = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-B", str(_WORKER), str(_ROOT)],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    # One thread: each one more would take address space from the limit.
                    env={"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
                    start_new_session=True,
                )
            self._control = ours
        return self._control

    def _numpy(self) -> str:
        if not self._site:
            found = find_spec("numpy")
            self._site = str(Path(found.origin).parents[1]) if found is not None and found.origin else ""
        return self._site


def _read_to_end(fd: int, deadline: float) -> bytes | None:
    """What a pipe delivers until its other end closes; None if that takes too long or is too much."""
    told = bytearray()
    while _wait(fd, deadline):
        piece = os.read(fd, 1 << 16)
        if not piece:
            return bytes(told)
        told += piece
        if len(told) > _LONGEST_ANSWER:
            return None
    return None


def _wait(readable: int | socket.socket, deadline: float) -> bool:
    poll = select.poll()
    poll.register(readable, select.POLLIN)
    return bool(poll.poll(max(0, int(1000 * (deadline - time.monotonic())))))


def _fail(why: str) -> NoReturn:
    raise AuditorError(f"the pickle guard failed and the file was not examined: {inert(why)}")
