"""Asking the guarded subprocess about a pickle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import auditor.errors as errors
from auditor.artifact.byte_source import open_regular
from auditor.artifact.limits import DEFAULT_LIMITS, Limits
from auditor.artifact.pickle_guard.report import PickleReport, report_from_json
from auditor.artifact.problems import problem
from auditor.errors import AuditorError, OutputError, RefusedArtifact
from auditor.text import inert

__all__ = ["convert_allowed", "inspect_pickle"]

_WORKER = Path(__file__).with_name("worker.py")
_ROOT = Path(__file__).resolve().parents[3]


def inspect_pickle(path: str | Path, limits: Limits = DEFAULT_LIMITS) -> PickleReport:
    """Says what loading a pickle, a torch file or an archive of them would import, without loading it.

    Args:
        path: a regular file; only its content counts.
        limits: caps, on time and memory too.

    Returns:
        The report. A file on which the subprocess ran out of time or memory has the verdict ``limit``.

    Raises:
        UsageError: there is no such file, or it cannot be read.
        RefusedArtifact: not a regular file.
        UnsupportedArtifact: neither a pickle nor an archive.
    """
    with _opened(path) as fd:
        return _report(_ask(fd, {"mode": "inspect"}, limits, ()), os.fstat(fd).st_size)


def convert_allowed(path: str | Path, out_dir: str | Path, limits: Limits = DEFAULT_LIMITS) -> Path:
    """Copies the tensors of an allowed pickle into a new safetensors file.

    The file is examined again and rebuilt from its symbolic description in the subprocess; neither
    ``pickle`` nor torch takes part. See :mod:`~auditor.artifact.pickle_guard.convert` for how names are made.

    Args:
        path: the pickle.
        out_dir: an existing folder; the file in it is named after the source's SHA-256.
        limits: caps.

    Returns:
        The path of the safetensors file.

    Raises:
        RefusedArtifact: the verdict is anything but ``allowed``, or the tensors would take far more room
            than the file.
        UnsupportedArtifact: it holds no tensors.
        OutputError: ``out_dir`` cannot be written.
    """
    target_dir = Path(out_dir)
    part = target_dir / f".converting-{os.getpid()}-{os.urandom(4).hex()}.part"
    with _opened(path) as fd:
        try:
            out = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except OSError as error:
            raise OutputError(f"cannot write in '{inert(str(target_dir))}': {error.strerror}") from error
        try:
            try:
                site = find_spec("numpy")
                root = str(Path(site.origin).parents[1]) if site is not None and site.origin else ""
                answer = _ask(fd, {"mode": "convert", "site": root, "out": out}, limits, (out,))
            finally:
                os.close(out)
            report = _report(answer, os.fstat(fd).st_size)
            if report.verdict != "allowed" or "written" not in answer:
                raise RefusedArtifact(f"'{inert(str(path))}' is not converted: {_reason(report)}")
            if part.stat().st_size != answer["written"]:
                raise OutputError(
                    f"'{inert(str(target_dir))}' did not take the whole converted file; is the disk full"
                )
            target = target_dir / f"{report.sha256[:16]}.safetensors"
            part.replace(target)
            return target
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def _opened(path: str | Path) -> Iterator[int]:
    fd = open_regular(path)
    try:
        yield fd
    finally:
        os.close(fd)


def _ask(fd: int, request: dict[str, Any], limits: Limits, pass_fds: tuple[int, ...]) -> dict[str, Any]:
    request |= {"limits": asdict(limits), "root": str(_ROOT)}
    before = os.fstat(fd)
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-B", str(_WORKER), json.dumps(request)],
            stdin=fd,
            capture_output=True,
            timeout=4 * limits.seconds,
            pass_fds=pass_fds,
            cwd="/",
            # One thread: each one more would take address space from the limit.
            env={"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"limit": "time"}
    after = os.fstat(fd)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise RefusedArtifact("the file changed while it was read; copy it to a safe place and try again")
    if done.returncode < 0:
        return {"limit": f"signal {-done.returncode}"}
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise AuditorError(f"the pickle guard failed and the file was not examined: {inert(last)}") from error
    return answer


def _report(answer: dict[str, Any], size: int) -> PickleReport:
    if "limit" in answer:
        stopped = problem(
            "limit.subprocess", "high", f"the examination was stopped at its limits ({answer['limit']})"
        )
        return PickleReport("limit", (), (stopped,), "", size, 0)
    if "error" in answer:
        kind = getattr(errors, str(answer["error"]), AuditorError)
        raise kind(answer["message"])
    return report_from_json(answer["report"])


def _reason(report: PickleReport) -> str:
    for reference in report.globals:
        if not reference.allowed:
            return f"{inert(reference.module)}.{inert(reference.name)} is not on the allow-list of pickles"
    return report.problems[0].detail if report.problems else f"the verdict is {report.verdict}"
