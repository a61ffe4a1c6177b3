"""A suspicious reader of zip archives.

Ordinary readers believe the central directory *or* the local headers, stop at a checksum error, or skip what
they cannot decrypt, and each such difference has been used to show a scanner one file and a loader another.
This one reads both directories, reports every disagreement, finds members that the central directory does
not list, and hands out each member's bytes whatever its checksum or flags claim. Nothing is ever extracted
to disk.

Layout as in PKWARE APPNOTE 6.3.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from auditor.artifact.byte_source import ByteSource
from auditor.artifact.limits import DEFAULT_LIMITS, Limits
from auditor.artifact.problems import Problem, problem
from auditor.errors import MalformedArtifact

__all__ = ["Archive", "Member", "has_end_record", "member_chunks", "read_archive", "salvage_members"]

STORED, DEFLATED = 0, 8

_END = b"PK\x05\x06"
_LOCAL = b"PK\x03\x04"
_CENTRAL = b"PK\x01\x02"
_DESCRIPTOR = b"PK\x07\x08"
_LONGEST_TAIL = 22 + 0xFFFF
_ENCRYPTED, _STREAMED = 0x0001, 0x0008
_GAP_BYTES = 16 << 20
_LOCAL_FIELDS, _CENTRAL_FIELDS = struct.Struct("<5H3L2H"), struct.Struct("<6H3L5H2L")
_SHORT_NAME, _MOST_HIDDEN, _OPEN_ENDED = 128, 2000, 64


@dataclass(frozen=True, slots=True)
class Member:
    """One member, as both directories describe it.

    Attributes:
        name: from the central directory (from the local header when unlisted); untrusted.
        local_name: from the local header.
        offset: first byte of its data.
        stored: bytes in the archive.
        size: bytes after unpacking, as claimed.
        method: compression method; 0 and 8 can be read.
        crc: CRC-32 as claimed.
        listed: whether the central directory knows it.
    """

    name: str
    local_name: str
    offset: int
    stored: int
    size: int
    method: int
    crc: int
    listed: bool = True


@dataclass(frozen=True, slots=True)
class Archive:
    """The members of an archive, and what is wrong with it."""

    members: tuple[Member, ...]
    problems: tuple[Problem, ...]


def has_end_record(source: ByteSource) -> bool:
    """Whether an end-of-central-directory record lies where zip readers look for one."""
    return _END in source.read(max(0, source.size - _LONGEST_TAIL), _LONGEST_TAIL)


def read_archive(source: ByteSource, limits: Limits = DEFAULT_LIMITS) -> Archive:
    """Reads both directories of an archive.

    Raises:
        MalformedArtifact: there is no central directory, it is damaged, or it lists more than
            ``limits.zip_members``.
    """
    known = source.known.get(limits)
    if isinstance(known, Archive):
        return known
    archive = _read_archive(source, limits)
    source.known[limits] = archive
    return archive


def _read_archive(source: ByteSource, limits: Limits) -> Archive:
    found: list[Problem] = []
    start, size, count, shift = _end_record(source, limits, found)
    listed = list(_central(source, start, size, shift, limits))
    if count != len(listed):
        found.append(
            problem("zip.entry_count", "high", f"the archive claims {count} members and lists {len(listed)}")
        )
    members = [_with_local(source, entry, found) for entry in listed]
    hidden, gaps = _unlisted(source, members, listed, start, limits)
    found.extend(gaps)
    members.extend(hidden)
    found.extend(_names(members))
    return Archive(tuple(members), tuple(found))


def salvage_members(source: ByteSource, limits: Limits = DEFAULT_LIMITS) -> tuple[Member, ...]:
    """Finds members by their local headers alone, in the first 16 MiB of an archive that cannot be read."""
    return tuple(_hidden(source, source.read(0, _GAP_BYTES), 0, limits.zip_members))


def member_chunks(source: ByteSource, member: Member) -> Iterator[bytes]:
    """Yields a member's unpacked bytes in pieces of a few MiB at most, ignoring checksum and flags.

    Raises:
        MalformedArtifact: the method is neither stored nor deflated, or the deflate stream is damaged.
    """
    window = source.window(member.offset, member.stored)
    if member.method == STORED:
        yield from window.chunks()
        return
    if member.method != DEFLATED:
        raise MalformedArtifact(f"a zip member uses compression method {member.method}, which is not read")
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for chunk in window.chunks():
            while chunk and not inflater.eof:
                yield inflater.decompress(chunk, 1 << 22)
                chunk = inflater.unconsumed_tail
        yield inflater.flush()
    except zlib.error as error:
        raise MalformedArtifact(f"a zip member cannot be inflated: {error}") from error


@dataclass(frozen=True, slots=True)
class _Entry:
    name: bytes
    flags: int
    method: int
    crc: int
    stored: int
    size: int
    header: int


def _end_record(source: ByteSource, limits: Limits, found: list[Problem]) -> tuple[int, int, int, int]:
    # Returns where the central directory starts, its size, its entries, and by how much all offsets are off.
    base = max(0, source.size - _LONGEST_TAIL)
    tail = source.read(base, _LONGEST_TAIL)
    at = tail.rfind(_END)
    if at < 0 or len(tail) < at + 22:
        raise MalformedArtifact("not a zip archive: there is no end-of-central-directory record")
    if tail.count(_END) > 1:
        found.append(problem("zip.several_ends", "high", "the archive has more than one end record"))
    _, _, _, count, size, start, comment = struct.unpack_from("<4H2LH", tail, at + 4)
    if at + 22 + comment != len(tail):
        found.append(
            problem("zip.trailing_bytes", "medium", "bytes follow the archive, or its comment is cut off")
        )
    position = base + at
    locator = source.read(position - 20, 20) if position >= 20 else b""
    if locator.startswith(b"PK\x06\x07"):
        # Readers differ: some follow the locator, some look right before it.
        record_at, before = struct.unpack_from("<Q", locator, 8)[0], position - 20 - 56
        record = source.read(before, 56) if before >= 0 else b""
        if record.startswith(b"PK\x06\x06"):
            record_at = before
        else:
            found.append(problem("zip.two_directories", "high", "its zip64 record is not where readers look"))
            record = source.read(record_at, 56)
        if not record.startswith(b"PK\x06\x06") or len(record) < 56:
            raise MalformedArtifact("not a readable zip archive: its zip64 record is missing")
        wide = struct.unpack_from("<3Q", record, 32)
        narrow = (count, size, start)
        saturated = (0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
        if any(n not in (w, s) for n, w, s in zip(narrow, wide, saturated, strict=True)):
            found.append(problem("zip.two_directories", "high", "its zip64 and its old end record disagree"))
        count, size, start = wide
        position = record_at
    shift = position - size - start
    if shift:
        found.append(problem("zip.shifted", "medium", f"the archive begins {shift} bytes from where it says"))
    if count > limits.zip_members:
        raise MalformedArtifact(f"the zip archive has more than {limits.zip_members} members")
    if position < size:
        raise MalformedArtifact("not a readable zip archive: its central directory lies outside the file")
    return position - size, size, count, shift


def _central(source: ByteSource, start: int, size: int, shift: int, limits: Limits) -> Iterator[_Entry]:
    if size > limits.zip_members * 512:
        raise MalformedArtifact(f"not a readable zip archive: its central directory takes {size} bytes")
    text = source.read(start, size)
    position = seen = 0
    while text.startswith(_CENTRAL, position):
        if len(text) < position + 46:
            raise MalformedArtifact("not a readable zip archive: its central directory is cut off")
        seen += 1
        if seen > limits.zip_members:
            raise MalformedArtifact(f"the zip archive has more than {limits.zip_members} members")
        fields = _CENTRAL_FIELDS.unpack_from(text, position + 4)
        flags, method, crc, stored, plain = fields[2], fields[3], fields[6], fields[7], fields[8]
        name_length, extra_length, comment_length, header = fields[9], fields[10], fields[11], fields[15]
        at = position + 46
        name, extra = text[at : at + name_length], text[at + name_length : at + name_length + extra_length]
        if extra:
            plain, stored, header = _zip64(extra, plain, stored, header)
        yield _Entry(name, flags, method, crc, stored, plain, header + shift)
        position = at + name_length + extra_length + comment_length


def _zip64(extra: bytes, *values: int) -> tuple[int, int, int]:
    wide: list[int] = []
    at = 0
    while at + 4 <= len(extra):
        tag, length = struct.unpack_from("<HH", extra, at)
        if tag == 1:
            body = extra[at + 4 : at + 4 + length]
            wide = [word for (word,) in struct.iter_unpack("<Q", body[: len(body) // 8 * 8])]
            break
        at += 4 + length
    resolved = [wide.pop(0) if value == 0xFFFFFFFF and wide else value for value in values]
    return resolved[0], resolved[1], (resolved[2] if len(resolved) > 2 else 0)


def _with_local(source: ByteSource, entry: _Entry, found: list[Problem]) -> Member:
    name = _text(entry.name)
    head = source.read(entry.header, 30 + 2 * _SHORT_NAME)
    if len(head) < 30 or not head.startswith(_LOCAL):
        raise MalformedArtifact("not a readable zip archive: a listed member is not where the directory says")
    _, flags, method, _, _, crc, stored, size, name_length, extra_length = _LOCAL_FIELDS.unpack_from(head, 4)
    if name_length + extra_length > 2 * _SHORT_NAME:
        head = source.read(entry.header, 30 + name_length + extra_length)
    raw, extra = head[30 : 30 + name_length], head[30 + name_length : 30 + name_length + extra_length]
    if extra:
        size, stored, _ = _zip64(extra, size, stored)
    differing: list[str] = []
    sizes = crc, stored, size
    same = (entry.name, entry.flags, entry.method) == (raw, flags, method)
    # A streamed member, which is what torch writes, leaves them to the central directory.
    streamed = flags & _STREAMED and not any(sizes)
    if not same or not (streamed or (entry.crc, entry.stored, entry.size) == sizes):
        differing = _differing(entry, raw, flags, method, *sizes)
    if differing:
        found.append(
            problem(
                "zip.mismatch",
                "high",
                f"member '{name}': the two directories differ in {', '.join(differing)}",
            )
        )
    if (entry.flags | flags) & _ENCRYPTED:
        found.append(problem("zip.encrypted", "high", f"member '{name}' is marked as encrypted"))
    offset = entry.header + 30 + name_length + extra_length
    if offset + entry.stored > source.size:
        raise MalformedArtifact("not a readable zip archive: a member reaches beyond the end of the file")
    return Member(name, _text(raw), offset, entry.stored, entry.size, entry.method, entry.crc)


def _differing(
    entry: _Entry, raw: bytes, flags: int, method: int, crc: int, stored: int, size: int
) -> list[str]:
    differing = [
        what
        for what, ours, theirs in (
            ("name", entry.name, raw),
            ("flags", entry.flags, flags),
            ("method", entry.method, method),
        )
        if ours != theirs
    ]
    if not (flags & _STREAMED and (crc, stored, size) == (0, 0, 0)):
        differing += [
            what
            for what, ours, theirs in (
                ("checksum", entry.crc, crc),
                ("stored size", entry.stored, stored),
                ("size", entry.size, size),
            )
            if ours != theirs and not (flags & _STREAMED and theirs in (0, 0xFFFFFFFF))
        ]
    return differing


def _unlisted(
    source: ByteSource, members: list[Member], entries: list[_Entry], directory: int, limits: Limits
) -> tuple[list[Member], list[Problem]]:
    regions = sorted(
        (entry.header, member.offset + member.stored) for entry, member in zip(entries, members, strict=True)
    )
    hidden: list[Member] = []
    found: list[Problem] = []
    position = unlisted = 0
    for start, end in [*regions, (directory, directory)]:
        if start < position:
            found.append(problem("zip.overlap", "high", "members of the archive overlap"))
        gap = source.read(position, min(start - position, _GAP_BYTES)) if start > position else b""
        if gap.startswith(_DESCRIPTOR):
            gap = gap[24:] if len(gap) >= 24 else b""
        elif len(gap) in (12, 20):
            gap = b""
        if gap.strip(b"\0"):
            unlisted += start - position
            hidden.extend(_hidden(source, gap, start - len(gap), limits.zip_members - len(hidden)))
        position = max(position, end)
    if unlisted:
        found.append(problem("zip.unlisted_bytes", "high", f"{unlisted} bytes belong to no listed member"))
    return hidden, found


def _hidden(source: ByteSource, gap: bytes, start: int, room: int) -> Iterator[Member]:
    at = gap.find(_LOCAL)
    # No lawful archive has one; beyond these the archive is broken all the same, and others have been looked at.
    room, open_ended = min(room, _MOST_HIDDEN), _OPEN_ENDED
    while at >= 0 and room > 0:
        room -= 1
        following = gap.find(_LOCAL, at + 4)
        if len(gap) >= at + 30:
            _, _, method, _, _, crc, stored, size, name_length, extra_length = _LOCAL_FIELDS.unpack_from(
                gap, at + 4
            )
            offset = start + at + 30 + name_length + extra_length
            if not 0 < stored <= source.size - offset:
                # A streamed member has no size here; all that follows it in the gap is looked at. Not for
                # thousands of them, which would take time by the square of their number.
                open_ended -= 1
                end = len(gap) if open_ended >= 0 or following < 0 else following
                stored = max(0, start + end - offset)
            name = _text(gap[at + 30 : at + 30 + name_length])
            yield Member(name, name, offset, stored, size, method, crc, listed=False)
        at = following


def _names(members: list[Member]) -> Iterator[Problem]:
    seen: set[str] = set()
    for member in members:
        for name in {member.name, member.local_name}:
            parts = name.replace("\\", "/").split("/")
            if ".." in parts or name.startswith(("/", "\\")) or name[1:2] == ":" or "\0" in name:
                yield problem(
                    "zip.path_traversal", "high", f"member name '{name}' points outside the archive"
                )
        # Names that fold to one another land in one file on some systems.
        folded = member.name.casefold()
        if folded in seen:
            yield problem("zip.duplicate_name", "high", f"member name '{member.name}' appears twice")
        seen.add(folded)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
