"""Finding and following every pickle in a file: bare, concatenated, in constants, in archives, in arrays.

Runs inside the guarded subprocess (and, in tests, in process: it executes nothing of what it reads).
"""

from __future__ import annotations

import hashlib
import re
import struct
import zlib
from dataclasses import dataclass, field

from auditor.artifact.byte_source import ByteSource
from auditor.artifact.limits import DEFAULT_LIMITS, Limits
from auditor.artifact.pickle_guard.probe import probe_pickle
from auditor.artifact.pickle_guard.report import GlobalRef, PickleReport, Verdict
from auditor.artifact.pickle_guard.storages import Stores, legacy_stores, tensor_fault, zip_stores
from auditor.artifact.pickle_guard.values import Value
from auditor.artifact.pickle_guard.walker import UNRESOLVED, Walk, walk
from auditor.artifact.problems import Problem, Severity, problem
from auditor.artifact.sniff import Kind, Sniffed, sniff_source
from auditor.artifact.zip_reader import Member, has_end_record, member_chunks, read_archive, salvage_members
from auditor.errors import MalformedArtifact, UnsupportedArtifact
from auditor.text import inert

__all__ = ["Examination", "examine"]

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

_ZIPS = frozenset({Kind.ZIP, Kind.TORCH_ZIP, Kind.NPZ, Kind.DDUF})
_PICKLES = frozenset({Kind.PICKLE, Kind.TORCH_LEGACY})
_HARMLESS = frozenset({"zip.shifted", "zip.trailing_bytes", "pickle.trailing_bytes", "pickle.several"})
_SHAPELESS = frozenset({Kind.TEXT, Kind.HTML, Kind.ONNX, Kind.UNKNOWN})
# What a loader unpickles by its name is followed even if it does not look like a pickle.
_PICKLE_NAME = re.compile(r"\.(?:pkl|pickle|pt|pth|ckpt|bin|joblib)\)?$", re.I)
# Exactly what numpy writes for numbers: its reader takes any Python literal, with escapes and repeated keys.
_NUMBERS = re.compile(
    rb"\{'descr': '[<>|=][biufcSUVmM]\d+(?:\[\w+\])?', 'fortran_order': (?:True|False), "
    rb"'shape': \([\d, ]{0,200}\),? ?\}\s*"
)
_OBJECTS = re.compile(rb"O|object|\\")
_STORAGE_NAME = re.compile(r"(?:[^/]+/)?data/\d+")
_ALSO_PICKLE = tuple(f"also reads as {kind}" for kind in sorted(_PICKLES))
_RATIO_FLOOR, _OVERLAP_BYTES = 16 << 20, 256 << 20


@dataclass(slots=True)
class Examination:
    """What is known of a file so far.

    Attributes:
        limits: caps, shared by all that the file contains.
        references: found, with the member they were found in.
        problems: noticed; all but a few make the file ``broken``, and codes ``limit.*`` make it ``limit``.
        pickles: streams followed.
        root: value of the file's main pickle, if there is one.
        stores: where the bytes of its torch storages lie.
        walks: of the first pickle in each member that torch may take for the main one.
    """

    limits: Limits
    references: dict[tuple[str, str, bool, str], GlobalRef] = field(default_factory=dict)
    problems: dict[tuple[str, str], Problem] = field(default_factory=dict)
    pickles: int = 0
    opcodes: int = 0
    unpacked: int = 0
    members: int = 0
    kind: str = ""
    root: Value | None = None
    stores: Stores = field(default_factory=Stores)
    walks: dict[str, Walk] = field(default_factory=dict)

    def note(self, code: str, severity: Severity, detail: str) -> None:
        """Adds a problem."""
        if len(self.problems) < 500:
            self.problems.setdefault((code, detail), problem(code, severity, detail))

    def verdict(self) -> Verdict:
        """Sums up, the gravest first."""
        if any(not reference.allowed for reference in self.references.values()):
            return "disallowed"
        codes = {code for code, _ in self.problems}
        if any(code.startswith("limit.") for code in codes):
            return "limit"
        return "broken" if codes - _HARMLESS else "allowed"

    def report(self, sha256: str, file_bytes: int) -> PickleReport:
        """Returns the finished report."""
        found = sorted(self.references.values(), key=lambda ref: ref.allowed)[: self.limits.pickle_globals]
        return PickleReport(
            self.verdict(),
            tuple(found),
            tuple(self.problems.values()),
            sha256,
            file_bytes,
            self.pickles,
            self.kind,
        )


def examine(source: ByteSource, limits: Limits = DEFAULT_LIMITS) -> tuple[Examination, PickleReport]:
    """Examines a whole file.

    Raises:
        UnsupportedArtifact: it is neither a pickle nor an archive that may hold one.
    """
    sniffed = sniff_source(source)
    if sniffed.kind not in _ZIPS | _PICKLES | {Kind.NPY, Kind.SEVEN_ZIP, Kind.ARCHIVE}:
        raise UnsupportedArtifact(
            f"not a pickle or an archive of pickles, but {sniffed.kind} ({sniffed.evidence})"
        )
    examination = Examination(limits, kind=str(sniffed.kind))
    if source.size > limits.file_bytes:
        examination.note("limit.file_bytes", "high", f"the file has {source.size} bytes")
        return examination, examination.report("", source.size)
    _blob(examination, source, sniffed, "", 0)
    digest = hashlib.sha256()
    for chunk in source.chunks():
        digest.update(chunk)
    return examination, examination.report(digest.hexdigest(), source.size)


def _blob(
    exam: Examination, source: ByteSource, sniffed: Sniffed, where: str, depth: int, storage: bool = False
) -> None:
    label = f"member '{where}'" if where else "the file"
    if sniffed.kind in _ZIPS:
        _archive(exam, source, where, depth)
    elif sniffed.kind in _PICKLES or (sniffed.kind in _SHAPELESS and _PICKLE_NAME.search(where)):
        _streams(exam, source, where, storage)
        if has_end_record(source) and not storage:
            exam.note("polyglot.archive", "high", f"{label} is a pickle that ends as an archive")
            _archive(exam, source, where, depth)
    elif sniffed.kind is Kind.NPY:
        _array_file(exam, source, where)
    elif sniffed.kind in (Kind.SEVEN_ZIP, Kind.ARCHIVE) and not storage:
        exam.note(
            "limit.container",
            "high",
            f"{label} is packed in a way that is not looked into ({sniffed.evidence})",
        )
    also_pickle = any(note.startswith(_ALSO_PICKLE) for note in sniffed.notes)
    if sniffed.kind not in _PICKLES and also_pickle and not storage:
        exam.note("polyglot.pickle", "high", f"{label} reads as {sniffed.kind} and as a pickle")
        _streams(exam, source, where, storage=False)


def _archive(exam: Examination, source: ByteSource, where: str, depth: int) -> None:
    if depth >= exam.limits.zip_depth:
        exam.note("limit.zip_depth", "high", f"archives are nested deeper than {exam.limits.zip_depth}")
        return
    try:
        archive = read_archive(source, exam.limits)
    except MalformedArtifact as error:
        exam.note("zip.unreadable", "high", str(error))
        # Other readers may be less strict about the directory than this one.
        for member in salvage_members(source, exam.limits):
            _member(exam, source, member, where, depth)
        return
    for found in archive.problems:
        exam.note(found.code, found.severity, found.detail)
    if any(found.code == "zip.overlap" for found in archive.problems):
        # Overlapping members are how a few bytes become petabytes; enough is unpacked to name what they are.
        exam.unpacked = max(exam.unpacked, exam.limits.unpacked_bytes - _OVERLAP_BYTES)
    for member in archive.members:
        _member(exam, source, member, where, depth)
    if not where:
        _main_pickle(exam, source, archive.members)


def _member(exam: Examination, source: ByteSource, member: Member, where: str, depth: int) -> None:
    name = member.name if member.name == member.local_name else f"{member.name} (locally {member.local_name})"
    path = f"{where}!{name}" if where else name
    exam.members += 1
    if exam.members > exam.limits.zip_members:
        exam.note("limit.zip_members", "high", f"more than {exam.limits.zip_members} members in all")
        return
    try:
        content = _content(exam, source, member, path)
    except MalformedArtifact as error:
        exam.note("zip.unreadable_member", "high", f"member '{path}': {error}")
        return
    if content is not None and content.size:
        storage = (
            bool(_STORAGE_NAME.fullmatch(member.name)) and member.name == member.local_name and member.listed
        )
        # An archive within an unlisted member would find the same unlisted members again.
        inner = depth + 1 if member.listed else max(depth + 1, exam.limits.zip_depth)
        _blob(exam, content, sniff_source(content), path, inner, storage)


def _content(exam: Examination, source: ByteSource, member: Member, path: str) -> ByteSource | None:
    """Returns a member's bytes, checked against what the archive says of them; None if a limit stops that."""
    kept: list[bytes] = []
    size = crc = 0
    compressed = member.method != 0
    if compressed and exam.unpacked > exam.limits.unpacked_bytes:
        exam.note("limit.zip_bomb", "high", "the archive grows beyond what is unpacked")
        return None
    for chunk in member_chunks(source, member):
        size += len(chunk)
        crc = zlib.crc32(chunk, crc)
        if not compressed:
            continue
        exam.unpacked += len(chunk)
        bomb = size > _RATIO_FLOOR and size > exam.limits.zip_ratio * max(1, member.stored)
        if bomb or exam.unpacked > exam.limits.unpacked_bytes:
            exam.note("limit.zip_bomb", "high", f"member '{path}' grows beyond what is unpacked")
            return None
        if size <= exam.limits.pickle_bytes:
            kept.append(chunk)
    if member.listed and (crc != member.crc or size != member.size):
        exam.note(
            "zip.checksum", "high", f"member '{path}' does not have the checksum or the size that it claims"
        )
    if not compressed:
        return source.window(member.offset, member.stored)
    if size > exam.limits.pickle_bytes and not _STORAGE_NAME.fullmatch(member.name):
        exam.note("limit.member_bytes", "medium", f"member '{path}' is too large to be unpacked")
    return ByteSource(b"".join(kept))


def _main_pickle(exam: Examination, source: ByteSource, members: tuple[Member, ...]) -> None:
    listed = {member.name: member for member in members if member.listed}
    mains = [name for name in listed if name == "data.pkl" or re.fullmatch(r"[^/]+/data\.pkl", name)]
    if len(mains) != 1:
        if len(mains) > 1:
            exam.note("torch.several_mains", "high", "the archive has more than one data.pkl")
        return
    prefix = mains[0][: -len("data.pkl")]
    order = listed.get(f"{prefix}byteorder")
    if order is not None and _start_of(source, order) != b"little":
        exam.note("torch.byte_order", "medium", "the tensors are not stored in little-endian order")
    found = exam.walks.get(mains[0])
    if found is not None:
        exam.root, exam.stores = found.root, zip_stores(source, members, prefix)
        _check_tensors(exam, found, exam.stores)


def _start_of(source: ByteSource, member: Member) -> bytes:
    try:
        return next(member_chunks(source, member), b"")[:16]
    except MalformedArtifact:
        return b""


def _streams(exam: Examination, source: ByteSource, where: str, storage: bool) -> None:
    data = source.read(0, exam.limits.pickle_bytes)
    position = 0
    roots: list[Value] = []
    storages: Walk | None = None
    while position < len(data):
        found = _follow(exam, data, position, where, 0, storage)
        position = found.end
        if found.broken or found.exhausted:
            if len(data) < source.size and not storage:
                exam.note("limit.pickle_bytes", "high", f"a pickle is longer than {len(data)} bytes")
            return
        if where.endswith("data.pkl"):
            exam.walks.setdefault(where, found)
        roots.append(found.root)
        if roots[0] == LEGACY_MAGIC and len(roots) == 4:
            storages = found
        if storages is not None and len(roots) == 5:
            _legacy_tail(exam, source, position, roots, storages, where)
            return
        rest = data[position : position + 4096]
        if rest and (storage or not probe_pickle(rest, whole=position + len(rest) == source.size)):
            if not (storage or roots[0] == LEGACY_MAGIC):
                exam.note(
                    "pickle.trailing_bytes", "low", f"{source.size - position} bytes follow the last pickle"
                )
            break
    if not where:
        exam.root = roots[0]
    if len(roots) > 1 and roots[0] != LEGACY_MAGIC:
        exam.note("pickle.several", "low", f"{len(roots)} pickles follow one another")


def _follow(exam: Examination, data: bytes, position: int, where: str, nesting: int, storage: bool) -> Walk:
    found = walk(data, position, exam.limits.pickle_opcodes - exam.opcodes)
    exam.opcodes += found.opcodes
    exam.pickles += 1
    # Raw numbers happen to begin like a pickle now and then; a payload among them names something and calls it.
    named = any(reference.module != UNRESOLVED for reference in found.references)
    if not storage or (found.calls and named):
        for reference in found.references:
            key = (reference.module, reference.name, reference.allowed, where)
            if len(exam.references) < 4 * exam.limits.pickle_globals:
                exam.references.setdefault(
                    key,
                    GlobalRef(
                        reference.module[:500], reference.name[:500], reference.opcode, reference.offset,
                        reference.allowed, where,
                    ),
                )  # fmt: skip
            elif not reference.allowed or len(exam.references) > exam.limits.pickle_globals:
                exam.note("limit.pickle_globals", "high", "the pickles make more references than are listed")
    if found.exhausted:
        exam.note("limit.pickle_opcodes", "high", f"more than {exam.limits.pickle_opcodes} opcodes")
    if found.broken and not storage:
        label = f"in '{where}' " if where else ""
        exam.note(
            "pickle.broken", "high", f"the pickle {label}breaks off at byte {found.end}: {found.broken}"
        )
    if not where:
        _check_tensors(exam, found, None)
    for offset, constant in found.constants:
        _constant(exam, constant, f"{where}>{offset}", nesting)
    return found


def _constant(exam: Examination, constant: bytes, where: str, nesting: int) -> None:
    """Follows a pickle hidden in a constant; only one that calls something disallowed is worth a word."""
    hidden = walk(constant, max_opcodes=min(100_000, exam.limits.pickle_opcodes - exam.opcodes))
    exam.opcodes += hidden.opcodes
    if hidden.calls and any(not reference.allowed for reference in hidden.references):
        if nesting >= exam.limits.pickle_nesting:
            exam.note("limit.pickle_nesting", "high", "pickles are nested in pickles too deeply")
            return
        exam.note("pickle.nested", "high", f"a constant at {inert(where)} is itself a pickle")
        _follow(exam, constant, 0, where, nesting + 1, False)
    elif hidden.opcodes > 2:
        for offset, inner in hidden.constants:
            if nesting < exam.limits.pickle_nesting:
                _constant(exam, inner, f"{where}>{offset}", nesting + 1)


def _legacy_tail(
    exam: Examination, source: ByteSource, position: int, roots: list[Value], storages: Walk, where: str
) -> None:
    stores, fault = legacy_stores(source, position, roots[4], storages.storages)
    if fault:
        exam.note("torch.storages", "high", fault)
    _check_tensors(exam, storages, stores)
    if not where:
        exam.root, exam.stores = roots[3], stores


def _check_tensors(exam: Examination, found: Walk, stores: Stores | None) -> None:
    for tensor in found.tensors:
        fault = tensor_fault(tensor, stores)
        if fault:
            exam.note("torch.tensor_bounds", "high", fault)
            return


def _array_file(exam: Examination, source: ByteSource, where: str) -> None:
    """Follows the pickle in a NumPy file of objects; a file of numbers holds none."""
    head = source.read(0, 12)
    wide = head[6:7] >= b"\x02"
    start = 12 if wide else 10
    if len(head) < 12:
        exam.note("npy.broken", "medium", "a NumPy file has no header")
        return
    length = struct.unpack_from("<I" if wide else "<H", head, 8)[0]
    text = source.read(start, min(length, 1 << 16))
    if length == len(text) and _NUMBERS.fullmatch(text):
        return
    body = source.window(start + length, source.size)
    if _OBJECTS.search(text) or probe_pickle(body.read(0, 4096), whole=body.size <= 4096):
        _streams(exam, body, f"{where}>{start + length}", storage=False)
