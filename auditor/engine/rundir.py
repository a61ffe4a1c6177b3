"""The directory of a run: the frozen plan, the append-only events, evidence by content, the report."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from auditor.contracts import JsonValue
from auditor.engine.files import (
    LOCK,
    TEMPORARY,
    StoreFailure,
    exclusive,
    output_errors,
    write_all,
    write_atomic,
)
from auditor.engine.store import Event
from auditor.engine.values import canonical_json, encode, sha256_of
from auditor.errors import OutputError, UsageError
from auditor.text import inert
from reports.model import AuditReport, Plan

__all__ = ["FinishedRun", "FrozenPlan", "RunDir", "open_run", "read_plan", "write_atomic"]

PLAN, EVENTS, REPORT = "plan.json", "events.jsonl", "report.json"
EVIDENCE, BLOBS = "evidence", "blobs"
SUFFIXES = {
    "application/json": ".json",
    "application/x-npz": ".npz",
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "image/svg+xml": ".svg",
    "text/csv": ".csv",
    "text/plain": ".txt",
}


@dataclass(frozen=True)
class FrozenPlan:
    """What ``plan.json`` says.

    Attributes:
        plan: as the report shows it.
        shares: level of each probe family.
        policy: the whole policy as a JSON object.
        subject: paths and SHA-256 of the artifacts, and the base's.
        tool: name and version.
        arguments: what the caller needs to build the subject again; no part of the plan's identity.
        operator: who ran it; no part of the plan's identity.
    """

    plan: Plan
    shares: Mapping[str, float]
    policy: Mapping[str, JsonValue]
    subject: Mapping[str, JsonValue]
    tool: Mapping[str, str]
    arguments: Mapping[str, JsonValue]
    operator: str = ""

    @property
    def seed(self) -> int:
        """Of the run."""
        return self.plan.seed

    @property
    def policy_document(self) -> str:
        """The policy as canonical JSON."""
        return canonical_json(dict(self.policy))

    @property
    def sha256(self) -> str:
        """Identity of the plan: of everything that can change a result."""
        body = self.document()
        return sha256_of({key: body[key] for key in ("plan", "shares", "policy", "subject", "tool")})

    def document(self) -> dict[str, JsonValue]:
        """The JSON object that is written."""
        return {
            "format": "auditor.plan",
            "format_version": 1,
            "plan": self.plan.model_dump(mode="json"),
            "shares": dict(self.shares),
            "policy": dict(self.policy),
            "subject": dict(self.subject),
            "tool": dict(self.tool),
            "arguments": dict(self.arguments),
            "operator": self.operator,
        }


@dataclass(frozen=True)
class FinishedRun:
    """A run directory that holds a report."""

    path: Path
    report: AuditReport

    def evidence(self, sha256: str) -> bytes:
        """The bytes of a file of evidence.

        Raises:
            OutputError: it is missing, or no longer what it was.
        """
        return _read_content(self.path / EVIDENCE, sha256)


def read_plan(run: Path) -> FrozenPlan:
    """Reads ``plan.json`` of a run directory, finished or not.

    Raises:
        UsageError: the directory is not a run, or its plan cannot be read.
    """
    path = run / PLAN
    shown = inert(str(run), 300)
    if not path.is_file():
        raise UsageError(f"{shown} is not the directory of a run: it has no {PLAN}")
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        parts = {name: dict(body[name]) for name in ("shares", "policy", "subject", "tool", "arguments")}
        plan = Plan.model_validate(body["plan"])
        return FrozenPlan(plan=plan, operator=str(body["operator"]), **parts)
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise UsageError(
            f"the plan of {shown} cannot be read: {PLAN} is damaged or of another version"
        ) from problem


def open_run(run: Path) -> FinishedRun:
    """Opens a finished run for reading.

    Raises:
        UsageError: the directory is not a run, is not finished, or its report cannot be read.
    """
    shown = inert(str(run), 300)
    path = run / REPORT
    if not path.is_file():
        read_plan(run)
        raise UsageError(f"the run in {shown} is not finished; go on with: auditor audit --resume {shown}")
    try:
        return FinishedRun(run, AuditReport.model_validate_json(path.read_bytes()))
    except (OSError, ValidationError) as problem:
        raise UsageError(
            f"the report of {shown} cannot be read: {REPORT} is damaged or of another version"
        ) from problem


class RunDir:
    """The store of a run on disk; made by :meth:`opened` only."""

    def __init__(self, path: Path, frozen: FrozenPlan) -> None:
        self.path = path
        self.frozen = frozen
        self._log = path / EVENTS
        self._events, self._size = _read_events(self._log)
        self._broken = False
        with output_errors(self._log):
            self._handle = os.open(self._log, os.O_RDWR | os.O_CREAT, 0o644)
            # A line that a kill tore off must not run into the next one.
            os.ftruncate(self._handle, self._size)
            os.lseek(self._handle, self._size, os.SEEK_SET)

    @classmethod
    @contextlib.contextmanager
    def opened(cls, path: Path, frozen: FrozenPlan) -> Iterator[RunDir]:
        """Makes a new run directory, or goes on with one of the same plan; locked until the end of the block.

        Raises:
            OutputError: the directory holds something else, is in use, or cannot be written.
        """
        known = _check_place(path, frozen)
        with output_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        with exclusive(path):
            _sweep(path)
            if not known:
                write_atomic(
                    path / PLAN, (json.dumps(frozen.document(), indent=2, sort_keys=True) + "\n").encode()
                )
            store = cls(path, frozen)
            try:
                yield store
            finally:
                os.close(store._handle)

    @property
    def events(self) -> list[Event]:
        """All events so far, oldest first."""
        return self._events

    def append(self, event: Event) -> None:
        """Adds one line and waits until it is on the disk.

        Raises:
            OutputError: it could not be kept; the log is as it was before.
        """
        if self._broken:
            raise StoreFailure(f"the record of the run in {inert(str(self.path), 300)} could not be kept")
        line = encode(event).encode() + b"\n"
        with output_errors(self._log):
            try:
                write_all(self._handle, line)
                os.fsync(self._handle)
            except OSError:
                self._broken = True
                with contextlib.suppress(OSError):
                    os.ftruncate(self._handle, self._size)
                raise
        self._size += len(line)
        self._events.append(json.loads(line))

    def put_blob(self, data: bytes) -> str:
        """Keeps bytes by content; returns their SHA-256."""
        return self._put(BLOBS, data, ".json")

    def get_blob(self, sha256: str) -> bytes:
        """Bytes kept before.

        Raises:
            OutputError: they are missing or damaged.
        """
        return _read_content(self.path / BLOBS, sha256)

    def put_evidence(self, data: bytes, media_type: str) -> str:
        """Keeps a file of evidence by content, with the suffix of its media type; returns its SHA-256."""
        return self._put(EVIDENCE, data, SUFFIXES.get(media_type.partition(";")[0].strip(), ".bin"))

    def write(self, name: str, data: bytes) -> Path:
        """Writes a file such as ``report.html`` at the top of the run, whole or not at all."""
        write_atomic(self.path / name, data)
        return self.path / name

    def write_report(self, report: AuditReport) -> None:
        """Writes ``report.json``."""
        self.write(REPORT, (report.model_dump_json(indent=2) + "\n").encode())

    def _put(self, folder: str, data: bytes, suffix: str) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        path = self.path / folder / f"{sha256}{suffix}"
        try:
            with output_errors(path):
                path.parent.mkdir(exist_ok=True)
            if not path.exists():
                write_atomic(path, data)
        except OutputError:
            self._broken = True
            raise
        return sha256


def _sweep(path: Path) -> None:
    """Removes temporary files that a killed process left; the lock says that nobody else is writing."""
    with output_errors(path):
        for folder in (path, path / EVIDENCE, path / BLOBS):
            for left in folder.glob(f"{TEMPORARY}*"):
                if left.name != LOCK:
                    left.unlink(missing_ok=True)


def _check_place(path: Path, frozen: FrozenPlan) -> bool:
    """Whether ``path`` already holds this run; raises if it holds anything else."""
    shown = inert(str(path), 300)
    with output_errors(path):
        if not path.exists():
            return False
        names = [entry.name for entry in path.iterdir() if not entry.name.startswith(TEMPORARY)]
    if not names:
        return False
    if PLAN not in names:
        raise OutputError(f"{shown} is not empty and not the directory of a run; choose another directory")
    if read_plan(path).sha256 != frozen.sha256:
        raise OutputError(
            f"{shown} holds a run of another plan, artifact or version of this tool; choose another directory"
        )
    return True


def _read_events(path: Path) -> tuple[list[Event], int]:
    """Events and the number of bytes they take; a last line that was torn off is left out."""
    if not path.exists():
        return [], 0
    with output_errors(path):
        data = path.read_bytes()
    events: list[Event] = []
    size = 0
    lines = data.splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        event = _event(line)
        if event is None:
            if number < len(lines):
                raise OutputError(
                    f"{inert(str(path), 300)} is damaged at line {number}; start the audit anew"
                )
            break
        events.append(event)
        size += len(line)
    return events, size


def _event(line: bytes) -> Event | None:
    if not line.endswith(b"\n"):
        return None
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("type"), str) else None


def _read_content(folder: Path, sha256: str) -> bytes:
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise OutputError(f"'{inert(sha256)}' is not the SHA-256 of a file of this run")
    for path in sorted(folder.glob(f"{sha256}.*")):
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() == sha256:
            return data
        raise OutputError(f"{inert(str(path), 300)} was changed after it was written")
    raise OutputError(f"{sha256[:16]}… is missing from {inert(str(folder), 300)}")
