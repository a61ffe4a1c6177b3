"""Short questions to the pickle guard, asked in process."""

from __future__ import annotations

from auditor.artifact.byte_source import ByteSource
from auditor.artifact.limits import Limits
from auditor.artifact.pickle_guard import PickleReport
from auditor.artifact.pickle_guard.examine import examine


def report_of(data: bytes, limits: Limits | None = None) -> PickleReport:
    return examine(ByteSource(data), limits or Limits())[1]


def disallowed(data: bytes) -> set[str]:
    return {f"{ref.module}.{ref.name}" for ref in report_of(data).globals if not ref.allowed}


def codes(data: bytes) -> set[str]:
    return {problem.code for problem in report_of(data).problems}
