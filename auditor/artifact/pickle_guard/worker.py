"""The subprocess in which hostile pickles are read.

Started as ``python -I -S -B worker.py REQUEST`` with the artifact as standard input: an isolated interpreter
without site packages, environment or working folder, which limits its own memory, time and output before it
reads the first byte. The answer is one JSON object on standard output.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Serves a request: ``mode``, ``limits``, ``root`` and, when ``mode`` is convert, ``site``, ``out``."""
    _confine(request["limits"])
    # After the standard library, so that nothing beside the package can shadow a module of it.
    sys.path.append(request["root"])
    from auditor.artifact.byte_source import ByteSource
    from auditor.artifact.limits import Limits
    from auditor.artifact.pickle_guard.examine import examine
    from auditor.artifact.pickle_guard.report import report_to_json
    from auditor.errors import AuditorError

    try:
        source = ByteSource(0)
        exam, report = examine(source, Limits(**request["limits"]))
        answer: dict[str, Any] = {"report": report_to_json(report)}
        if request["mode"] == "convert" and report.verdict == "allowed":
            sys.path.append(request["site"])
            from auditor.artifact.pickle_guard.convert import write_converted

            with os.fdopen(request["out"], "wb") as out:
                answer["written"] = write_converted(exam, report.sha256, report.file_bytes, out)
    except AuditorError as error:
        return {"error": type(error).__name__, "message": str(error)}
    except MemoryError:
        return {"limit": "memory"}
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


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(json.loads(sys.argv[1]))))
