"""The processes in which hostile pickles are read.

Started as ``python -I -S -B worker.py ROOT`` with one end of a socket as standard input: an isolated
interpreter without site packages, environment or working folder. It never reads an artifact itself. For every
request, a message with the descriptor of the artifact, it forks; the child limits its own memory, time and
output before it reads the first byte, writes one JSON object into a pipe that came with the request, and
ends. So each file has a process of its own, which no other file has touched, at the price of a fork and not
of an interpreter.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import sys
from typing import Any, NoReturn

_SNAPSHOT_BYTES = 8 << 20


def serve(control: socket.socket) -> None:
    """Answers requests until the other end closes; after each, sends how its process ended."""
    while True:
        message, fds, _, _ = socket.recv_fds(control, 1 << 16, 3)
        if not message:
            return
        child = os.fork()
        if child == 0:
            control.close()
            _examine_and_exit(json.loads(message), *fds)
        for fd in fds:
            os.close(fd)
        _, status = os.waitpid(child, 0)
        control.send(str(os.waitstatus_to_exitcode(status)).encode())


def _examine_and_exit(request: dict[str, Any], artifact: int, answer: int, out: int | None = None) -> NoReturn:
    code = 1
    try:
        _confine(request["limits"])
        told = json.dumps(_examine(request, artifact, out)).encode()
        with os.fdopen(answer, "wb") as pipe:
            pipe.write(told)
        code = 0
    finally:
        # Whatever happened: this process may not go on as a second server.
        os._exit(code)


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
            sys.path.append(request["site"])
            from auditor.artifact.pickle_guard.convert import write_converted

            with os.fdopen(out, "wb") as file:
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
        (resource.RLIMIT_CPU, limits["seconds"]),
        (resource.RLIMIT_FSIZE, limits["converted_bytes"]),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(what)
        ceiling = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(what, (ceiling, ceiling))


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
