"""One file of an artifact: what it is, its hash, what its guard said. Nothing is loaded."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from auditor.artifact.limits import Limits
from auditor.artifact.problems import Problem, problem
from auditor.artifact.sniff import Kind, Sniffed, sniff
from auditor.errors import AuditorError, MalformedArtifact, RefusedArtifact, UnsupportedArtifact
from auditor.text import inert

if TYPE_CHECKING:
    from auditor.artifact.pickle_guard import Guard, PickleReport
    from auditor.artifact.safetensors_file import NonFinite, SafetensorsFile

__all__ = ["FileRecord", "data_section_sha256", "record_converted", "record_file", "record_safetensors"]

_GUARDED = frozenset(
    {Kind.TORCH_ZIP, Kind.TORCH_LEGACY, Kind.PICKLE, Kind.ZIP, Kind.NPZ, Kind.NPY, Kind.DDUF}
    | {Kind.SEVEN_ZIP, Kind.ARCHIVE}
)
_CHUNK = 1 << 20


@dataclass(frozen=True)
class FileRecord:
    """What is known of one file.

    Attributes:
        name: path relative to the artifact, or the file name; untrusted.
        kind: by content.
        size: bytes.
        sha256: of the whole file; empty if its examination was cut short.
        tensor_hash: of names, types, shapes and values; None if it is no safetensors file.
        tensors: number of tensors; None if it is no safetensors file.
        nonfinite: NaN and infinite values; None if it is no safetensors file.
        pickle: the report of the pickle guard; None if there is no pickle in it.
        problems: oddities of the file itself; for a file that breaks its format, what breaks it.
    """

    name: str
    kind: Kind
    size: int
    sha256: str
    tensor_hash: str | None = None
    tensors: int | None = None
    nonfinite: NonFinite | None = None
    pickle: PickleReport | None = None
    problems: tuple[Problem, ...] = ()

    @property
    def refused(self) -> bool:
        """Whether the guard did not allow it to be opened."""
        return self.pickle is not None and self.pickle.verdict != "allowed"


def record_file(
    path: Path,
    limits: Limits,
    name: str | None = None,
    guard: Guard | None = None,
    sniffed: Sniffed | None = None,
) -> FileRecord:
    """Examines one file of any kind; a broken safetensors file inside a folder is recorded, not raised.

    Args:
        path: the file.
        limits: caps.
        name: shown instead of the file's own.
        guard: one that is running already, for many files.
        sniffed: what the file is, if that is known already.
    """
    sniffed = sniff(path) if sniffed is None else sniffed
    name = path.name if name is None else name
    notes = _notes(sniffed)
    if sniffed.kind is Kind.SAFETENSORS:
        from auditor.artifact.safetensors_file import SafetensorsFile

        try:
            with SafetensorsFile(path, limits) as file:
                return record_safetensors(file, name, notes)
        except MalformedArtifact as error:
            broken = problem("safetensors.malformed", "high", str(error))
            return FileRecord(name, sniffed.kind, path.stat().st_size, "", problems=(*notes, broken))
    if sniffed.kind in _GUARDED:
        from auditor.artifact.pickle_guard import inspect_pickle

        try:
            return _record_pickle(name, sniffed, inspect_pickle(path, limits, guard))
        except UnsupportedArtifact:
            pass
    return FileRecord(name, sniffed.kind, path.stat().st_size, _sha256(path, limits), problems=notes)


def record_converted(
    path: Path, sniffed: Sniffed, limits: Limits, folder: Path, guard: Guard | None = None
) -> tuple[FileRecord, Path | AuditorError | None]:
    """The record of a file of pickles, and its tensors as a safetensors file in ``folder``.

    Returns:
        The record; and the file, or why an allowed file has none, or None if it is not allowed.
    """
    from auditor.artifact.pickle_guard import inspect_and_convert

    report, converted = inspect_and_convert(path, folder, limits, guard)
    return _record_pickle(path.name, sniffed, report), converted


def _record_pickle(name: str, sniffed: Sniffed, report: PickleReport) -> FileRecord:
    problems = (*_notes(sniffed), *report.problems)
    return FileRecord(name, sniffed.kind, report.file_bytes, report.sha256, pickle=report, problems=problems)


def _notes(sniffed: Sniffed) -> tuple[Problem, ...]:
    return tuple(problem("sniff.note", "medium", note) for note in sniffed.notes)


def record_safetensors(
    file: SafetensorsFile, name: str, notes: tuple[Problem, ...] = (), meaning: bool = True
) -> FileRecord:
    """The record of an open safetensors file; reads it once from end to end.

    Without ``meaning`` single tensors are hashed only where something is wrong, which a fingerprint then names.
    """
    problems = (*notes, *file.header.problems)
    if not meaning:
        sha256, nonfinite = file.screen()
        if not problems and not nonfinite:
            size, count = file.header.file_bytes, len(file.header.tensors)
            return FileRecord(name, Kind.SAFETENSORS, size, sha256, tensors=count)
    return FileRecord(
        name=name,
        kind=Kind.SAFETENSORS,
        size=file.header.file_bytes,
        sha256=file.sha256,
        tensor_hash=file.tensor_hash,
        tensors=len(file.header.tensors),
        nonfinite=file.count_nonfinite(),
        problems=problems,
    )


def data_section_sha256(path: Path, whole_sha256: str) -> str:
    """SHA-256 of all bytes behind the header of a safetensors file, in hexadecimal.

    Raises:
        RefusedArtifact: the file is no longer the one whose hash was given.
    """
    whole, data = hashlib.sha256(), hashlib.sha256()
    with path.open("rb") as file:
        prefix = file.read(8)
        header = file.read(int.from_bytes(prefix, "little"))
        whole.update(prefix + header)
        while chunk := file.read(_CHUNK):
            whole.update(chunk)
            data.update(chunk)
    if whole.hexdigest() != whole_sha256:
        raise RefusedArtifact(f"'{inert(path.name)}' changed while it was being read; nothing of it is used")
    return data.hexdigest()


def _sha256(path: Path, limits: Limits) -> str:
    if path.stat().st_size > limits.file_bytes:
        raise RefusedArtifact(f"'{inert(path.name)}' is larger than the cap of {limits.file_bytes} bytes")
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
