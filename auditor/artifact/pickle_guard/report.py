"""What the guard says about a file that holds pickles."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from auditor.artifact.problems import Problem

__all__ = ["GlobalRef", "PickleReport", "Verdict", "report_from_json", "report_to_json"]

Verdict = Literal["allowed", "disallowed", "broken", "limit"]


@dataclass(frozen=True, slots=True)
class GlobalRef:
    """A reference that loading the pickle would resolve.

    Attributes:
        module: dotted module, or ``<unresolved>``; untrusted.
        name: name in it, or what could not be resolved; untrusted.
        opcode: the opcode that made it.
        offset: byte offset in its pickle stream.
        allowed: whether it is on the allow-list and used as the libraries use it.
        member: archive member (and pickle inside it) that it was found in; empty for the file itself;
            untrusted.
    """

    module: str
    name: str
    opcode: str
    offset: int
    allowed: bool
    member: str = ""


@dataclass(frozen=True, slots=True)
class PickleReport:
    """The outcome of :func:`~auditor.artifact.pickle_guard.inspect_pickle`.

    Attributes:
        verdict: ``allowed``: every reference in every pickle is on the allow-list, and the container is
            sound. ``disallowed``: loading it would resolve something else. ``broken``: a stream or the
            container breaks its format, or its two directories disagree. ``limit``: it was not examined to
            the end. Only ``allowed`` may be converted.
        globals: distinct references, disallowed ones first, then in file order.
        problems: what else was noticed.
        sha256: of the whole file; empty if the examination was cut short.
        file_bytes: size of the file.
        pickles: pickle streams that were followed.
        kind: the kind of file, as :class:`~auditor.artifact.sniff.Kind` names it.
    """

    verdict: Verdict
    globals: tuple[GlobalRef, ...]
    problems: tuple[Problem, ...]
    sha256: str
    file_bytes: int
    pickles: int
    kind: str = ""


def report_to_json(report: PickleReport) -> dict[str, Any]:
    """Returns plain JSON types."""
    return asdict(report)


def report_from_json(data: dict[str, Any]) -> PickleReport:
    """Reverses :func:`report_to_json`."""
    return PickleReport(
        verdict=data["verdict"],
        globals=tuple(GlobalRef(**entry) for entry in data["globals"]),
        problems=tuple(Problem(**entry) for entry in data["problems"]),
        sha256=data["sha256"],
        file_bytes=data["file_bytes"],
        pickles=data["pickles"],
        kind=data["kind"],
    )
