"""From a path to what it is: the one entry through which files and folders are opened.

Content decides, not names: sniff, guard, dialect, family, claims. Nothing is executed; a pickle that the
guard allows is converted in the guard's subprocess, and the converted tensors are what is read.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, TypeVar

from auditor.artifact.limits import DEFAULT_LIMITS, Limits
from auditor.artifact.model_dir import (
    PICKLE_KINDS,
    WEIGHT_KINDS,
    ModelDirectory,
    file_problems,
    list_files,
    read_model_directory,
)
from auditor.artifact.problems import Problem, problem
from auditor.artifact.records import (
    FileRecord,
    data_section_sha256,
    record_converted,
    record_file,
    record_safetensors,
)
from auditor.artifact.sniff import Kind, Sniffed, sniff
from auditor.errors import AuditorError, MalformedArtifact, RefusedArtifact, UnsupportedArtifact, UsageError
from auditor.text import inert

if TYPE_CHECKING:
    from auditor.artifact.adapter import Adapter
    from auditor.artifact.claims import ClaimCheck, Claims
    from auditor.artifact.family import FamilyMatch
    from auditor.artifact.pickle_guard import Guard
    from auditor.artifact.tensors import FileTensors

__all__ = ["PREFERRED", "Identified", "identify"]

ArtifactKind: TypeAlias = Literal[
    "adapter", "checkpoint", "model_folder", "refused", "unsupported", "weights"
]
T = TypeVar("T")
BaseModules: TypeAlias = Mapping[str, Mapping[str, tuple[int, ...]]]

# Names that loaders look for in a folder, in their order; any other single weight file is taken as well.
PREFERRED = (
    "adapter_model.safetensors",
    "pytorch_lora_weights.safetensors",
    "learned_embeds.safetensors",
    "adapter_model.bin",
    "pytorch_lora_weights.bin",
    "learned_embeds.bin",
)
_NOT_READ: Mapping[Kind, str] = {
    Kind.GGUF: "a GGUF file, which is not supported: its quantised blocks would have to be decoded, and they hide "
    "small changes; give the weights they were made from",
    Kind.DDUF: "a DDUF archive, which is not supported: unpack it and give the model folder",
    Kind.ONNX: "an ONNX graph, which is not supported: give the weights it was exported from",
    Kind.HDF5: "an HDF5 or Keras file, which is not supported: only diffusers-style models are read",
    Kind.ZIP: "a zip archive, which is not opened as a model: unpack it and give what is inside",
    Kind.NPZ: "a NumPy archive, which is not an adapter format",
    Kind.NPY: "a NumPy array, which is not an adapter format",
    Kind.SEVEN_ZIP: "a 7-Zip archive, which is not opened: unpack it and give what is inside",
    Kind.ARCHIVE: "a compressed archive, which is not opened: unpack it and give what is inside",
    Kind.IMAGE: "an image, not a model",
    Kind.HTML: "an HTML page, not a model: a download that failed often looks like this",
    Kind.TEXT: "a text file, not a model: a Git LFS pointer or a failed download often looks like this",
    Kind.EMPTY: "an empty file",
}


@dataclass
class Identified:
    """What a path turned out to be; a context manager, to be closed when its tensors are no longer needed.

    Attributes:
        path: as given.
        kind: ``adapter``; ``checkpoint`` (a whole model in one file); ``model_folder``; ``refused`` (a pickle
            that the guard does not allow); ``unsupported`` (named in :attr:`unsupported`); ``weights`` (tensors
            whose meaning was not asked for).
        files: every weight file looked at, the one that was read first.
        adapter: only for ``adapter``, and for a model folder that was put on its base.
        checks: each claim beside what was measured.
        family: of an adapter, a checkpoint or a model folder.
        directory: only for ``model_folder``.
        unsupported: one sentence; empty if supported.
        problems: oddities beyond those of the single files; an adapter's own are in here too.
    """

    path: Path
    kind: ArtifactKind
    files: tuple[FileRecord, ...]
    adapter: Adapter | None = None
    checks: tuple[ClaimCheck, ...] = ()
    family: FamilyMatch | None = None
    directory: ModelDirectory | None = None
    unsupported: str = ""
    problems: tuple[Problem, ...] = ()
    _open: ExitStack = field(default_factory=ExitStack, repr=False)

    @property
    def sha256(self) -> str:
        """Of the file; of a folder, SHA-256 over the sorted lines ``hash  name`` of its weight files."""
        if len(self.files) == 1:
            return self.files[0].sha256
        lines = sorted(f"{record.sha256}  {record.name}\n" for record in self.files)
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()

    @property
    def tensor_hash(self) -> str | None:
        """Of the file that was read; equal for re-labelled copies. None if no tensors were read."""
        return self.files[0].tensor_hash if self.files else None

    @property
    def size(self) -> int:
        """Bytes, over all files."""
        return sum(record.size for record in self.files)

    @property
    def nonfinite(self) -> int:
        """NaN and infinite values, over all files."""
        return sum(f.nonfinite.nan + f.nonfinite.inf for f in self.files if f.nonfinite is not None)

    @property
    def all_problems(self) -> tuple[Problem, ...]:
        """Problems of the artifact and of each of its files."""
        return (*self.problems, *(p for record in self.files for p in record.problems))

    def require_adapter(self) -> Adapter:
        """The adapter.

        Raises:
            RefusedArtifact: it must not be opened.
            UnsupportedArtifact: it is something else; the message says what.
        """
        shown = inert(str(self.path))
        if self.kind == "refused":
            raise RefusedArtifact(f"'{shown}' holds a pickle that must not be opened; see auditor scan")
        if self.adapter is None:
            raise UnsupportedArtifact(
                self.unsupported or f"'{shown}' is a {self.kind.replace('_', ' ')}, not an adapter"
            )
        return self.adapter

    def keep_open(self, file: AbstractContextManager[T]) -> T:
        """Enters something that is to be closed with the artifact."""
        return self._open.enter_context(file)

    def close(self) -> None:
        """Closes the file and removes converted copies; no tensor can be read after it."""
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def identify(
    path: str | Path,
    limits: Limits = DEFAULT_LIMITS,
    base: BaseModules | None = None,
    guard: Guard | None = None,
    meaning: bool = True,
) -> Identified:
    """Says what a file or folder is, reading no more of it than that takes.

    Args:
        path: a file or a folder.
        limits: caps on what is read.
        base: component to module path to weight shape of a base that was named, for adapters of no known
            family.
        guard: one that is running already, for many files; by default one is started for each pickle.
        meaning: whether to work out what the tensors of a file are; without, only whether it is safe to open.

    Raises:
        UsageError: there is no such path, or it cannot be read.
        MalformedArtifact: a file of a known kind breaks its own format.
        RefusedArtifact: it is no regular file, exceeds a limit, or changed while it was read.
        UnsupportedArtifact: a folder without a model.
    """
    path = Path(path)
    sniffed = sniff(path)
    if sniffed.kind is Kind.DIRECTORY:
        return _folder(path, limits, base, guard)
    notes = tuple(problem("sniff.note", "medium", note) for note in sniffed.notes)
    reading = _Reading(path, limits, base, guard, meaning)
    if sniffed.kind is Kind.SAFETENSORS:
        return reading.safetensors(path, notes)
    return reading.other(path, sniffed)


@dataclass
class _Reading:
    """One artifact on its way from file to meaning."""

    path: Path
    limits: Limits
    base: BaseModules | None
    guard: Guard | None = None
    meaning: bool = True
    config: Mapping[str, Any] | None = None
    extra: tuple[FileRecord, ...] = ()
    problems: tuple[Problem, ...] = ()
    stack: ExitStack = field(default_factory=ExitStack)

    def other(self, path: Path, sniffed: Sniffed) -> Identified:
        """Anything but safetensors."""
        if sniffed.kind in PICKLE_KINDS and self.meaning:
            return self._pickle(path, sniffed)
        record = record_file(path, self.limits, guard=self.guard, sniffed=sniffed)
        if record.refused:
            return self._done("refused", (record,))
        if record.kind in PICKLE_KINDS and not self.meaning:
            return self._done("weights", (record,))
        told = self._not_read(path, record.kind)
        return self._done("unsupported", (record,), unsupported=f"'{inert(path.name)}' is {told}")

    def _not_read(self, path: Path, kind: Kind) -> str:
        """What a file of a kind that is not read is, and what reading it would take."""
        told = _NOT_READ.get(kind, "of no known kind: it is neither safetensors nor a pickle")
        summary = ""
        try:
            if kind is Kind.GGUF:
                from auditor.artifact.gguf import read_gguf

                summary = f" ({read_gguf(path, self.limits).told})"
            elif kind is Kind.DDUF:
                from auditor.artifact.dduf import read_dduf

                found = read_dduf(path, self.limits)
                summary, self.problems = f" ({found.told})", (*self.problems, *found.problems)
        except (MalformedArtifact, RefusedArtifact, UnsupportedArtifact) as error:
            # It would not be audited either way: that its header is odd too is said beside its name.
            self.problems = (*self.problems, problem(f"{kind}.header", "low", str(error)))
        name, comma, rest = told.partition(",")
        return f"{name}{summary}{comma}{rest}"

    def safetensors(self, path: Path, notes: tuple[Problem, ...] = ()) -> Identified:
        """A safetensors file that was received as such."""
        with self.stack as stack:
            return self._opened(stack, path, None, notes)

    def _pickle(self, path: Path, sniffed: Sniffed) -> Identified:
        with self.stack as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="auditor-")))
            record, converted = record_converted(path, sniffed, self.limits, folder, self.guard)
            if converted is None:
                return self._done("refused", (record,))
            if isinstance(converted, UnsupportedArtifact):
                return self._done("unsupported", (record,), unsupported=str(converted))
            if isinstance(converted, AuditorError):
                raise converted
            return self._opened(stack, converted, record, ())

    def _opened(
        self, stack: ExitStack, path: Path, pickle: FileRecord | None, notes: tuple[Problem, ...]
    ) -> Identified:
        from auditor.artifact.safetensors_file import SafetensorsFile
        from auditor.artifact.tensors import FileTensors

        file = stack.enter_context(SafetensorsFile(path, self.limits))
        record = record_safetensors(file, path.name, notes, self.meaning)
        if pickle is not None:
            # The hash of the artifact is that of the pickle; the tensors are those of the conversion.
            record = replace(
                pickle, tensor_hash=record.tensor_hash, tensors=record.tensors, nonfinite=record.nonfinite,
                problems=(*pickle.problems, *record.problems),
            )  # fmt: skip
        result = self._read(FileTensors(file), record, path) if self.meaning else self._done("weights", (record,))
        result._open = stack.pop_all()
        return result

    def _read(self, source: FileTensors, record: FileRecord, path: Path) -> Identified:
        # What a tensor means takes longer to import than a file to check.
        from auditor.artifact.card import card_beside
        from auditor.artifact.checkpoint import is_checkpoint, match_checkpoint
        from auditor.artifact.claim_checks import check_claims
        from auditor.artifact.claims import parse_claims
        from auditor.artifact.dialects import Context, read_adapter
        from auditor.artifact.quantised import quantised_note, quantised_tensors
        from auditor.artifact.triggers import trigger_problems

        card, card_problems = card_beside(self.path)
        claims = parse_claims(source.metadata, self.config, card)
        self.problems = (*self.problems, *card_problems, *claims.problems, *trigger_problems(claims.triggers))
        quantised = quantised_tensors(source.specs)
        if quantised is not None:
            self.problems = (*self.problems, quantised_note(quantised))
        try:
            if is_checkpoint(source):
                return self._done("checkpoint", (record,), family=match_checkpoint(source))
            adapter = read_adapter(source, Context(self.path.stem, self.config, self.base), claims)
        except UnsupportedArtifact as error:
            return self._done("unsupported", (record,), unsupported=str(error))
        self.problems = (*self.problems, *adapter.problems)
        checks = check_claims(adapter, _data_hash(claims, path, record) if record.pickle is None else None)
        return self._done("adapter", (record,), adapter=adapter, checks=checks, family=adapter.family_match)

    def _done(self, kind: ArtifactKind, files: tuple[FileRecord, ...], **rest: Any) -> Identified:
        return Identified(self.path, kind, (*files, *self.extra), problems=self.problems, **rest)


def _data_hash(claims: Claims, path: Path, record: FileRecord) -> str | None:
    if not any(claim.about == "tensor_hash" for claim in claims.items):
        return None
    return data_section_sha256(path, record.sha256)


def _folder(folder: Path, limits: Limits, base: BaseModules | None, guard: Guard | None) -> Identified:
    from auditor.artifact.peft_config import config_problems, read_config
    from auditor.artifact.quantised import quantised_folder, quantised_note

    if (folder / "model_index.json").is_file():
        directory = read_model_directory(folder)
        files = tuple(record_file(folder / name, limits, name, guard) for name in directory.weights)
        kind: ArtifactKind = "refused" if any(record.refused for record in files) else "model_folder"
        schemes = quantised_folder(folder).items()
        problems = (*directory.problems, *(quantised_note(found, name) for name, found in schemes))
        return Identified(
            folder, kind, files, family=directory.family, directory=directory, problems=problems
        )
    names = list_files(folder)
    weights = [
        n for n in names if "/" not in n and (folder / n).is_file() and sniff(folder / n).kind in WEIGHT_KINDS
    ]
    config = read_config(folder) if (folder / "adapter_config.json").is_file() else None
    chosen = next((n for n in PREFERRED if n in weights), weights[0] if len(weights) == 1 else None)
    if chosen is None and weights:
        raise UsageError(f"'{inert(str(folder))}' holds {len(weights)} weight files; name the one to read")
    if chosen is None:
        raise UnsupportedArtifact(
            f"'{inert(str(folder))}' holds no model: no model_index.json, adapter_config.json or weight file"
        )
    reading = _Reading(
        folder, limits, base, guard, True, config,
        extra=tuple(record_file(folder / name, limits, guard=guard) for name in weights if name != chosen),
        problems=(*file_problems(folder, names), *config_problems(config or {})),
    )  # fmt: skip
    if any(record.refused for record in reading.extra):
        told = "another file of the folder holds a pickle that is not allowed; a loader may open it"
        reading.problems = (*reading.problems, problem("folder.refused_file", "high", told))
    reading.problems = (*reading.problems, *_not_read_beside(reading.extra))
    sniffed = sniff(folder / chosen)
    if sniffed.kind is Kind.SAFETENSORS:
        return reading.safetensors(folder / chosen)
    return reading.other(folder / chosen, sniffed)


def _not_read_beside(extra: tuple[FileRecord, ...]) -> tuple[Problem, ...]:
    """Weights that lie beside the file that is read: a loader may take them instead, or as well.

    The state of an optimiser is none: pickles count by the names that loaders look for.
    """
    others = [
        record.name
        for record in extra
        if not record.refused and (record.kind is Kind.SAFETENSORS or record.name in PREFERRED)
    ]
    if not others:
        return ()
    told = f"'{inert(others[0])}'" + (f" and {len(others) - 1} more" if len(others) > 1 else "")
    return (
        problem("folder.other_weights", "medium", f"{told} beside it was not read; name every file that is used"),
    )
