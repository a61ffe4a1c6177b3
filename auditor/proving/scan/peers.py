"""Other scanners, run as their users run them: telemetry off, no network, in a process of their own."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from auditor.errors import AuditorError

__all__ = ["PEERS", "SECONDS_A_FILE", "PeerVerdict", "find_peers", "peer_folder_seconds", "peer_verdicts"]

PEERS = ("picklescan", "modelscan", "fickling", "modelaudit")
"""Names on PyPI, which are the names of their modules."""

SECONDS_A_FILE = 45.0
"""The longest that a scanner is waited for on one file, by the clock, its start included."""

_DRIVER = Path(__file__).with_name("peer_driver.py")
_ASK = (
    "import importlib.metadata as m, importlib.util as u, json, sys; "
    "print(json.dumps({n: m.version(n) for n in sys.argv[1:] if u.find_spec(n)}))"
)


@dataclass(frozen=True)
class PeerVerdict:
    """What one scanner said of one path.

    Attributes:
        path: as given.
        verdict: ``flagged``, ``passed``, ``error``, or ``skipped`` (it looked at nothing, and says so).
        detail: what it said, cut short; untrusted.
        seconds: by the clock, without start-up.
    """

    path: str
    verdict: str
    detail: str
    seconds: float


def find_peers(python: Path | None = None) -> dict[str, str]:
    """Versions of the scanners that an interpreter has; one that is missing is not in it.

    Args:
        python: an interpreter; this one by default.

    Raises:
        AuditorError: the interpreter does not run.
    """
    try:
        told = _run(python, ["-c", _ASK, *PEERS], "", 120)
        versions: dict[str, str] = json.loads(told)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise AuditorError(f"the interpreter for the other scanners does not run: {error}") from error
    return versions


def peer_verdicts(name: str, paths: Sequence[Path], python: Path | None = None) -> Iterator[PeerVerdict]:
    """Asks a scanner about each path; a path on which its process dies is an error, and the next go on."""
    left = [str(path.absolute()) for path in paths]
    while left:
        begun = time.perf_counter()
        with _driver(name, "files", python) as process:
            assert process.stdin is not None
            process.stdin.write(json.dumps(left))
            process.stdin.close()
            for line in _lines(process):
                verdict = PeerVerdict(**json.loads(line))
                yield verdict
                left.remove(verdict.path)
                begun = time.perf_counter()
        if left:
            seconds = time.perf_counter() - begun
            told = f"its process ended with {process.returncode}"
            yield PeerVerdict(
                left.pop(0), "error", told if seconds < SECONDS_A_FILE else "stopped: too long", seconds
            )


def peer_folder_seconds(name: str, folder: Path, python: Path | None = None) -> float:
    """Seconds by the clock for a whole folder in one process, its start included.

    Raises:
        AuditorError: it failed.
    """
    begun = time.perf_counter()
    with _driver(name, "folder", python) as process:
        told, _ = process.communicate(json.dumps([str(folder)]))
    seconds = time.perf_counter() - begun
    if process.returncode or '"done"' not in told:
        raise AuditorError(f"{name} did not get through the folder: {told[:200]}")
    return seconds


def _lines(process: subprocess.Popen[str]) -> Iterator[str]:
    """What a driver prints; it is killed when nothing comes for :data:`SECONDS_A_FILE`."""
    assert process.stdout is not None
    while True:
        watch = threading.Timer(SECONDS_A_FILE, process.kill)
        watch.start()
        try:
            line = process.stdout.readline()
        finally:
            watch.cancel()
        # A line that was cut off by the end of the process is no verdict.
        if not line.endswith("\n"):
            return
        yield line


def _driver(name: str, mode: str, python: Path | None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [_interpreter(python), str(_DRIVER), name, mode],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=_environment(), cwd=_scratch(),
    )  # fmt: skip


def _run(python: Path | None, arguments: list[str], given: str, seconds: float) -> str:
    done = subprocess.run(
        [_interpreter(python), *arguments],
        input=given, capture_output=True, text=True, timeout=seconds, check=True, env=_environment(), cwd=_scratch(),
    )  # fmt: skip
    return done.stdout


def _environment() -> dict[str, str]:
    home = _scratch()
    return {
        "PATH": os.environ.get("PATH", ""), "HOME": home, "XDG_CACHE_HOME": home, "TMPDIR": home, "LANG": "C.UTF-8",
        "PROMPTFOO_DISABLE_TELEMETRY": "1", "NO_ANALYTICS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1", "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9",
    }  # fmt: skip


@cache
def _scratch() -> str:
    # They keep caches and write reports into the working folder: neither comes near the user's own.
    folder = tempfile.mkdtemp(prefix="auditor-peers-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _interpreter(python: Path | None) -> str:
    # Not resolved: the link in a virtual environment is what makes it one.
    return sys.executable if python is None else str(python.absolute())
