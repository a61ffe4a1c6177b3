"""What a file is, by its content alone. A name or an extension is a claim, and is never looked at.

Only the first and last pages of a file and, for zip archives, the central directory are read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from auditor.artifact.byte_source import ByteSource, open_regular
from auditor.artifact.limits import DEFAULT_LIMITS
from auditor.artifact.pickle_guard.opcodes import OPCODES
from auditor.artifact.pickle_guard.probe import is_cut_line, probe_pickle
from auditor.artifact.zip_reader import has_end_record, read_archive
from auditor.errors import MalformedArtifact
from auditor.text import inert

__all__ = ["Kind", "Sniffed", "sniff", "sniff_source"]

_LONG_HEAD = 8 << 20
_HEAD, _SMALL, _REMEMBERED = 1 << 16, 1 << 20, 4096


class Kind(StrEnum):
    """Kinds of artifact that are told apart."""

    SAFETENSORS = "safetensors"
    TORCH_ZIP = "torch_zip"
    TORCH_LEGACY = "torch_legacy"
    PICKLE = "pickle"
    ZIP = "zip"
    NPZ = "npz"
    NPY = "npy"
    SEVEN_ZIP = "seven_zip"
    ARCHIVE = "archive"
    GGUF = "gguf"
    DDUF = "dduf"
    ONNX = "onnx"
    HDF5 = "hdf5"
    IMAGE = "image"
    HTML = "html"
    TEXT = "text"
    EMPTY = "empty"
    DIRECTORY = "directory"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Sniffed:
    """The outcome of :func:`sniff`.

    Attributes:
        kind: the kind under which a loader would open it.
        evidence: one printable sentence saying why.
        notes: further readings of the same bytes (a polyglot), or what is wrong with them at first sight.
    """

    kind: Kind
    evidence: str
    notes: tuple[str, ...] = ()


# Of unchanged files: a walk over a folder and what it leads to ask several times. Who examines the content
# itself, the pickle guard above all, asks the bytes anew.
_RECENT: dict[tuple[int, ...], Sniffed] = {}

# (offset, magic, kind, what it is)
_MAGICS: tuple[tuple[int, bytes, Kind, str], ...] = (
    (0, b"GGUF", Kind.GGUF, "GGUF magic"),
    (0, b"7z\xbc\xaf\x27\x1c", Kind.SEVEN_ZIP, "7-Zip magic"),
    (0, b"\x93NUMPY", Kind.NPY, "NumPy array magic"),
    (0, b"\x89HDF\r\n\x1a\n", Kind.HDF5, "HDF5 magic"),
    (0, b"\x1f\x8b", Kind.ARCHIVE, "gzip magic"),
    (0, b"BZh", Kind.ARCHIVE, "bzip2 magic"),
    (0, b"\xfd7zXZ\0", Kind.ARCHIVE, "xz magic"),
    (0, b"\x28\xb5\x2f\xfd", Kind.ARCHIVE, "zstd magic"),
    (0, b"Rar!\x1a\x07", Kind.ARCHIVE, "RAR magic"),
    (257, b"ustar", Kind.ARCHIVE, "tar magic"),
    (0, b"\x89PNG\r\n\x1a\n", Kind.IMAGE, "PNG magic"),
    (0, b"\xff\xd8\xff", Kind.IMAGE, "JPEG magic"),
    (0, b"GIF8", Kind.IMAGE, "GIF magic"),
    (8, b"WEBP", Kind.IMAGE, "WebP magic"),
    (0, b"II*\0", Kind.IMAGE, "TIFF magic"),
    (0, b"MM\0*", Kind.IMAGE, "TIFF magic"),
)

# All of them at once: most of what is looked at, a storage of numbers, begins with none.
_ANY_MAGIC = re.compile(b"|".join(b".{%d}%b" % (at, re.escape(magic)) for at, magic, _, _ in _MAGICS), re.S)
_TORCH_MAGIC = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
_HTML = re.compile(rb"\A(?:\xef\xbb\xbf)?\s{0,64}(?:<!doctype\s+html|<html|<head|<script|<\?xml|<svg)", re.I)
_CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1f]")
_JSON_START = re.compile(rb"\{[ \t\r\n]*[\"}]")


def sniff(path: str | Path) -> Sniffed:
    """Tells what the file at ``path`` is.

    Args:
        path: a file, or a directory (for which :attr:`Kind.DIRECTORY` is all that is said).

    Returns:
        Kind, evidence and notes. A damaged file keeps the kind that its loader would try.

    Raises:
        UsageError: there is no such file, or it cannot be read.
        RefusedArtifact: a device, a pipe or another special file.
    """
    if Path(path).is_dir():
        return Sniffed(Kind.DIRECTORY, "a directory")
    fd = open_regular(path)
    try:
        status = os.fstat(fd)
        unchanged = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if unchanged not in _RECENT:
            if len(_RECENT) >= _REMEMBERED:
                _RECENT.clear()
            _RECENT[unchanged] = sniff_source(ByteSource.snapshot(fd, _SMALL))
        return _RECENT[unchanged]
    finally:
        os.close(fd)


def sniff_source(source: ByteSource) -> Sniffed:
    """Like :func:`sniff`, for bytes that are open already."""
    if source.size == 0:
        return Sniffed(Kind.EMPTY, "the file has no bytes")
    head = source.read(0, _HEAD)
    readings = [reading for detect in _DETECTORS if (reading := detect(source, head)) is not None]
    if not readings:
        return Sniffed(Kind.UNKNOWN, f"no known format begins with {head[:8].hex(' ')}")
    first, *others = readings
    if first.kind is Kind.SAFETENSORS and head[:1] == b"\x80" and head[2] not in OPCODES:
        # A header length of 0x280, say, is PROTO 2; then comes a zero, at which every unpickler stops.
        others = [other for other in others if other.kind is not Kind.PICKLE]
    also = tuple(f"also reads as {other.kind}: {other.evidence}" for other in others)
    return Sniffed(first.kind, first.evidence, first.notes + also)


def _safetensors(source: ByteSource, head: bytes) -> Sniffed | None:
    length = int.from_bytes(head[:8], "little")
    fits = 2 <= length <= source.size - 8
    if fits and (head[8:9] == b"{" or head[8:72].lstrip(b" \t\r\n").startswith(b"{")):
        return Sniffed(Kind.SAFETENSORS, f"a header length of {length} bytes, then a JSON object")
    if _JSON_START.match(head, 8) and not _mostly_text(head[:8]):
        return Sniffed(
            Kind.SAFETENSORS, "a JSON object after eight bytes", (f"the header length {length} does not fit",)
        )
    return None


def _magic(source: ByteSource, head: bytes) -> Sniffed | None:
    if not _ANY_MAGIC.match(head):
        return None
    return next(Sniffed(kind, told) for at, magic, kind, told in _MAGICS if head.startswith(magic, at))


def _zip(source: ByteSource, head: bytes) -> Sniffed | None:
    local = head.startswith(b"PK\x03\x04")
    if not local and not has_end_record(source):
        return None
    where = "zip magic" if local else "a zip directory at the end"
    try:
        archive = read_archive(source, DEFAULT_LIMITS)
    except MalformedArtifact as error:
        # Pixels and weights hold any four bytes now and then: a broken zip is one that begins as a zip.
        return Sniffed(Kind.ZIP, where, (str(error),)) if local else None
    names = [member.name for member in archive.members]
    kind, evidence = _archive_kind(names, {member.method for member in archive.members})
    notes = tuple(sorted({found.detail for found in archive.problems}))
    return Sniffed(
        kind, f"{where}{evidence}", notes if local else (*notes, "the archive does not begin the file")
    )


def _archive_kind(names: list[str], methods: set[int]) -> tuple[Kind, str]:
    pickles = [
        name for name in names if name == "data.pkl" or (name.endswith("/data.pkl") and name.count("/") == 1)
    ]
    if pickles:
        return Kind.TORCH_ZIP, f" with member '{inert(pickles[0], 60)}'"
    if "model_index.json" in names and methods <= {0}:
        return Kind.DDUF, " with member 'model_index.json' and nothing compressed"
    if names and all(name.endswith(".npy") for name in names):
        return Kind.NPZ, f" with {len(names)} NumPy arrays"
    return Kind.ZIP, f" with {len(names)} members"


def _pickle(source: ByteSource, head: bytes) -> Sniffed | None:
    if _TORCH_MAGIC in head[:32] and head[:1] in b"\x80\x8a":
        return Sniffed(Kind.TORCH_LEGACY, "the magic number of old torch files, pickled")
    whole = source.size <= len(head)
    probed = probe_pickle(head, whole)
    if probed is None and not whole and is_cut_line(head):
        # A first line longer than a page hides what follows it.
        longer = source.read(0, _LONG_HEAD)
        probed = probe_pickle(longer, source.size <= len(longer))
        if probed is None and len(longer) < source.size and is_cut_line(longer):
            probed = "a line of text as an old pickle protocol has them, longer than any text's"
    return None if probed is None else Sniffed(Kind.PICKLE, probed)


def _onnx(source: ByteSource, head: bytes) -> Sniffed | None:
    # ModelProto: field 1 is ir_version, a small varint; producer_name, opset_import or graph follow.
    if (
        len(head) > 4
        and head[0] == 0x08
        and 1 <= head[1] <= 20
        and head[2] in b"\x12\x1a\x22\x28\x32\x3a\x42"
    ):
        return Sniffed(Kind.ONNX, "an ONNX ir_version field")
    return None


def _html(source: ByteSource, head: bytes) -> Sniffed | None:
    return Sniffed(Kind.HTML, "HTML or XML markup") if _HTML.match(head) else None


def _text(source: ByteSource, head: bytes) -> Sniffed | None:
    if not _mostly_text(head):
        return None
    if head.startswith(b"version https://git-lfs"):
        return Sniffed(Kind.TEXT, "a Git LFS pointer, not the file it points to")
    return Sniffed(Kind.TEXT, "printable UTF-8 text")


def _mostly_text(data: bytes) -> bool:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        # A character may be cut in two where the page ends.
        if error.start < len(data) - 3 or len(data) < _HEAD:
            return False
        text = data[: error.start].decode("utf-8")
    return not _CONTROL.search(text)


# In the order in which a reading wins; the others become notes.
_DETECTORS: tuple[Callable[[ByteSource, bytes], Sniffed | None], ...] = (
    _safetensors, _magic, _zip, _pickle, _onnx, _html, _text,
)  # fmt: skip
