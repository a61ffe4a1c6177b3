"""The processes in which hostile pickles are read.

Started as ``python -I -S -B worker.py ROOT`` with one end of a socket as standard input: an isolated
interpreter without site packages, environment or working folder. The server never reads an artifact itself: it
forks, and its child limits its own memory, time and output before it reads the first byte. A request is a message
with the descriptor of the artifact and a pipe, into which one JSON object is written. A child goes on to the next
request, up to :data:`FILES_A_PROCESS`, only as long as all that it read was allowed: whatever else it meets, it ends,
and the next file gets a new process. A child that dies leaves the server, which says so and forks again.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import sys
from typing import Any, NoReturn

FILES_A_PROCESS = 32
"""Files that one process may read, if all of them are allowed."""

_SNAPSHOT_BYTES = 8 << 20
_CLOSED, _RENEWED = 0, 3


def serve(control: socket.socket) -> None:
    """Forks a process for each run of requests until the other end closes; says how one ended that died."""
    while True:
        child = os.fork()
        if child == 0:
            _session_and_exit(control)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if code == _CLOSED:
            return
        if code != _RENEWED:
            control.send(str(code).encode())


def _session_and_exit(control: socket.socket) -> NoReturn:
    code = 1
    try:
        code = _session(control)
    finally:
        # Whatever happened: this process may not go on as a second server.
        os._exit(code)


def _session(control: socket.socket) -> int:
    """Answers requests one after the other; returns why it ends."""
    limits: dict[str, int] = {}
    for served in range(FILES_A_PROCESS):
        message, fds, _, _ = socket.recv_fds(control, 1 << 16, 3)
        if not message:
            return _CLOSED
        request = json.loads(message)
        again = bool(limits) and (request["alone"] or request["limits"] != limits)
        if not limits:
            limits = request["limits"]
            _confine(limits)
        _allow_seconds(limits["seconds"])
        answer = {"again": True} if again else _examine(request, fds[0], fds[2] if len(fds) > 2 else None)
        last = again or served + 1 == FILES_A_PROCESS or not _harmless(answer)
        with os.fdopen(fds[1], "wb") as pipe:
            pipe.write(json.dumps(answer | {"last": last}).encode())
        for fd in (fds[0], *fds[2:]):
            os.close(fd)
        control.send(b"0")
        if last:
            break
    return _RENEWED


def _harmless(answer: dict[str, Any]) -> bool:
    return answer.get("report", {}).get("verdict") == "allowed" and "error" not in answer


def _examine(request: dict[str, Any], artifact: int, out: int | None) -> dict[str, Any]:
    from auditor.artifact.byte_source import ByteSource
    from auditor.artifact.limits import Limits
    from auditor.artifact.pickle_guard.examine import examine
    from auditor.artifact.pickle_guard.report import report_to_json
    from auditor.errors import AuditorError

    answer: dict[str, Any] = {}
    try:
        exam, report = examine(ByteSource.snapshot(artifact, _SNAPSHOT_BYTES), Limits(**request["limits"]))
        answer["report"] = report_to_json(report)
        if out is not None and report.verdict == "allowed":
            if request["site"] not in sys.path:
                sys.path.append(request["site"])
            from auditor.artifact.pickle_guard.convert import write_converted

            with os.fdopen(out, "wb", closefd=False) as file:
                answer["written"] = write_converted(exam, report.sha256, report.file_bytes, file)
    except AuditorError as error:
        answer |= {"error": type(error).__name__, "message": str(error)}
    except MemoryError:
        return {"limit": "memory"}
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"}
    return answer


def _confine(limits: dict[str, int]) -> None:
    import resource

    for what, value in (
        (resource.RLIMIT_AS, limits["memory_bytes"]),
        (resource.RLIMIT_CPU, limits["seconds"] * FILES_A_PROCESS),
        (resource.RLIMIT_FSIZE, limits["converted_bytes"]),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(what)
        ceiling = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(what, (ceiling, ceiling))


def _allow_seconds(seconds: int) -> None:
    """Lets the next file take so much processor time, beyond what earlier ones took."""
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(used.ru_utime + used.ru_stime) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _import_ahead() -> None:
    # Here and not in the children, which would each do it again.
    import resource  # noqa: F401

    import auditor.artifact.pickle_guard.convert  # noqa: F401
    from auditor.artifact.pickle_guard.warmup import warm_up

    warm_up()


if __name__ == "__main__":
    # After the standard library, so that nothing beside the package can shadow a module of it.
    sys.path.append(sys.argv[1])
    _import_ahead()
    # The children are too short-lived to collect cycles, and a collection would copy every page they share.
    gc.disable()
    gc.freeze()
    serve(socket.socket(fileno=0))
