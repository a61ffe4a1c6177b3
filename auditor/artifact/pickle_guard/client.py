"""Asking the guarded processes about a pickle."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import auditor.errors as errors
from auditor.artifact.byte_source import open_regular
from auditor.artifact.limits import DEFAULT_LIMITS, Limits
from auditor.artifact.pickle_guard.guard import Guard
from auditor.artifact.pickle_guard.report import PickleReport, report_from_json
from auditor.artifact.problems import problem
from auditor.errors import AuditorError, OutputError, RefusedArtifact
from auditor.text import inert

__all__ = ["convert_allowed", "inspect_and_convert", "inspect_pickle"]


def inspect_pickle(
    path: str | Path, limits: Limits = DEFAULT_LIMITS, guard: Guard | None = None
) -> PickleReport:
    """Says what loading a pickle, a torch file or an archive of them would import, without loading it.

    Args:
        path: a regular file; only its content counts.
        limits: caps, on time and memory too.
        guard: one that is running already, for many files; by default one is started for this file.

    Returns:
        The report. A file on which the subprocess ran out of time or memory has the verdict ``limit``.

    Raises:
        UsageError: there is no such file, or it cannot be read.
        RefusedArtifact: not a regular file.
        UnsupportedArtifact: neither a pickle nor an archive.
    """
    with _opened(path) as fd, _running(guard) as running:
        answer = running.ask(fd, limits)
        report = _report(answer, os.fstat(fd).st_size)
        _raise_error(answer)
        return report


def convert_allowed(
    path: str | Path, out_dir: str | Path, limits: Limits = DEFAULT_LIMITS, guard: Guard | None = None
) -> Path:
    """Copies the tensors of an allowed pickle into a new safetensors file.

    The file is examined again and rebuilt from its symbolic description in the subprocess; neither
    ``pickle`` nor torch takes part. See :mod:`~auditor.artifact.pickle_guard.convert` for how names are made.

    Args:
        path: the pickle.
        out_dir: an existing folder; the file in it is named after the source's SHA-256.
        limits: caps.
        guard: one that is running already.

    Returns:
        The path of the safetensors file.

    Raises:
        RefusedArtifact: the verdict is anything but ``allowed``, or the tensors would take far more room
            than the file.
        UnsupportedArtifact: it holds no tensors.
        OutputError: ``out_dir`` cannot be written.
    """
    report, converted = inspect_and_convert(path, out_dir, limits, guard)
    if isinstance(converted, AuditorError):
        raise converted
    if converted is None:
        raise RefusedArtifact(f"'{inert(str(path))}' is not converted: {_reason(report)}")
    return converted


def inspect_and_convert(
    path: str | Path, out_dir: str | Path, limits: Limits = DEFAULT_LIMITS, guard: Guard | None = None
) -> tuple[PickleReport, Path | AuditorError | None]:
    """Both in one reading: what is reported and what is converted are the same bytes.

    Args:
        path: a regular file.
        out_dir: an existing folder.
        limits: caps.
        guard: one that is running already.

    Returns:
        The report, and the safetensors file, or why an allowed file has none, or None if it is not allowed.

    Raises:
        UsageError, RefusedArtifact, UnsupportedArtifact: as :func:`inspect_pickle` does.
        OutputError: ``out_dir`` cannot be written.
    """
    target_dir = Path(out_dir)
    part = target_dir / f".converting-{os.getpid()}-{os.urandom(4).hex()}.part"
    with _opened(path) as fd, _running(guard) as running:
        try:
            out = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except OSError as error:
            raise OutputError(f"cannot write in '{inert(str(target_dir))}': {error.strerror}") from error
        try:
            try:
                answer = running.ask(fd, limits, out)
            finally:
                os.close(out)
            report = _report(answer, os.fstat(fd).st_size)
            if "error" in answer:
                return report, _error(answer)
            if report.verdict != "allowed" or "written" not in answer:
                return report, None
            if part.stat().st_size != answer["written"]:
                raise OutputError(
                    f"'{inert(str(target_dir))}' did not take the whole converted file; is the disk full"
                )
            target = target_dir / f"{report.sha256[:16]}.safetensors"
            part.replace(target)
            return report, target
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def _opened(path: str | Path) -> Iterator[int]:
    fd = open_regular(path)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _running(guard: Guard | None) -> Iterator[Guard]:
    if guard is not None:
        yield guard
        return
    with Guard() as own:
        yield own


def _report(answer: dict[str, Any], size: int) -> PickleReport:
    if "limit" in answer:
        stopped = problem(
            "limit.subprocess", "high", f"the examination was stopped at its limits ({answer['limit']})"
        )
        return PickleReport("limit", (), (stopped,), "", size, 0)
    if "report" not in answer:
        _raise_error(answer)
    return report_from_json(answer["report"])


def _raise_error(answer: dict[str, Any]) -> None:
    if "error" in answer:
        raise _error(answer)


def _error(answer: dict[str, Any]) -> AuditorError:
    kind = getattr(errors, str(answer["error"]), AuditorError)
    found: AuditorError = kind(answer["message"])
    return found


def _reason(report: PickleReport) -> str:
    for reference in report.globals:
        if not reference.allowed:
            return f"{inert(reference.module)}.{inert(reference.name)} is not on the allow-list of pickles"
    return report.problems[0].detail if report.problems else f"the verdict is {report.verdict}"
