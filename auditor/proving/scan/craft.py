"""Builds well-formed and hostile artifacts byte by byte. Payloads are inert: ``os.system`` of ``true``."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping

PROTO = b"\x80\x02"
STOP = b"."


def safetensors(header: object, data: bytes = b"") -> bytes:
    """A safetensors file from a header object or from raw header bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(start: int, shape: list[int], dtype: str = "F32", itemsize: int = 4) -> dict[str, object]:
    """A header entry whose offsets fit its shape."""
    count = 1
    for size in shape:
        count *= size
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, start + count * itemsize]}


def text(value: str) -> bytes:
    """Pushes a string."""
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def global_(module: str, name: str) -> bytes:
    """Pushes a global by the GLOBAL opcode."""
    return f"c{module}\n{name}\n".encode()


def call(module: str, name: str, *args: bytes) -> bytes:
    """Pushes ``module.name(*args)``."""
    return global_(module, name) + b"(" + b"".join(args) + b"tR"


PAYLOAD = call("os", "system", text("true"))


def pickled(*parts: bytes) -> bytes:
    """A whole pickle of protocol 2."""
    return PROTO + b"".join(parts) + STOP


def storage_id(key: str, count: int, kind: str = "FloatStorage") -> bytes:
    """Pushes a torch storage by its persistent id."""
    return (
        b"("
        + text("storage")
        + global_("torch", kind)
        + text(key)
        + text("cpu")
        + b"J"
        + struct.pack("<i", count)
        + b"tQ"
    )


def tensor(
    key: str, count: int, shape: tuple[int, ...], stride: tuple[int, ...], kind: str = "FloatStorage"
) -> bytes:
    """Pushes a torch tensor over a storage."""
    sizes = b"(" + b"".join(b"J" + struct.pack("<i", size) for size in shape) + b"t"
    strides = b"(" + b"".join(b"J" + struct.pack("<i", step) for step in stride) + b"t"
    hooks = call("collections", "OrderedDict")
    return call(
        "torch._utils",
        "_rebuild_tensor_v2",
        storage_id(key, count, kind),
        b"K\x00",
        sizes,
        strides,
        b"\x89",
        hooks,
    )


def embedding_pickle(count: int = 4) -> bytes:
    """``{"string_to_param": {"*": tensor}, "name": "cat", "step": 5}``."""
    return pickled(
        b"}(", text("string_to_param"), b"}", text("*"), tensor("0", count, (1, count), (count, 1)), b"s",
        text("name"), text("cat"), text("step"), b"K\x05", b"u",
    )  # fmt: skip


def zipped(members: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data, method)
    return file.getvalue()


def torch_zip(main: bytes, storages: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A file as ``torch.save`` writes it."""
    members = {"archive/data.pkl": main, "archive/byteorder": b"little", "archive/version": b"3\n"}
    return zipped(members | {f"archive/data/{key}": data for key, data in storages.items()}, method)


def embedding_file(method: int = zipfile.ZIP_STORED) -> bytes:
    """An old textual-inversion file with the vector 0, 1, 2, 3."""
    return torch_zip(embedding_pickle(), {"0": struct.pack("<4f", 0, 1, 2, 3)}, method)


def legacy_file() -> bytes:
    """The same in torch's format before zip."""
    magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
    version = pickled(b"M\xe9\x03")
    system = pickled(b"}", text("little_endian"), b"\x88s")
    keys = pickled(b"]", text("0"), b"a")
    return magic + version + system + embedding_pickle() + keys + struct.pack("<q4f", 4, 0, 1, 2, 3)


def patch_local(archive: bytes, member: str, offset: int, new: bytes) -> bytes:
    """Overwrites bytes of a member's local header, ``offset`` from its start."""
    at = archive.index(b"PK\x03\x04")
    while archive[at + 30 : at + 30 + len(member)] != member.encode():
        at = archive.index(b"PK\x03\x04", at + 4)
    at += offset
    return archive[:at] + new + archive[at + len(new) :]


def patch_central(archive: bytes, member: str, offset: int, new: bytes) -> bytes:
    """Overwrites bytes of a member's central directory entry, ``offset`` from its start."""
    at = archive.index(b"PK\x01\x02")
    while archive[at + 46 : at + 46 + len(member)] != member.encode():
        at = archive.index(b"PK\x01\x02", at + 4)
    at += offset
    return archive[:at] + new + archive[at + len(new) :]


def seven_zip(name: str, data: bytes) -> bytes:
    """A 7-Zip archive of one stored file (format: 7zFormat.txt of the LZMA SDK)."""
    encoded = name.encode("utf-16-le") + b"\0\0"
    header = (
        b"\x01\x04"  # header, main streams
        + b"\x06\x00\x01\x09" + _seven(len(data)) + b"\x00"  # packed: position 0, one stream, its size
        + b"\x07\x0b\x01\x00\x01\x01\x00\x0c" + _seven(len(data)) + b"\x00"  # one folder, one coder: copy
        + b"\x08\x0a\x01" + struct.pack("<I", zlib.crc32(data)) + b"\x00"  # checksum of the one substream
        + b"\x00"
        + b"\x05\x01\x11" + _seven(len(encoded) + 1) + b"\x00" + encoded + b"\x00"  # one file, its name
        + b"\x00"
    )  # fmt: skip
    start = struct.pack("<QQI", len(data), len(header), zlib.crc32(header))
    return b"7z\xbc\xaf\x27\x1c\x00\x04" + struct.pack("<I", zlib.crc32(start)) + start + data + header


def _seven(number: int) -> bytes:
    # Numbers of up to four bytes, the first byte telling how many follow.
    return b"\xf0" + struct.pack("<I", number)


def tarred(members: Mapping[str, bytes]) -> bytes:
    """A tar archive, as torch wrote its files before 2017."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def streamed_zip(members: Mapping[str, bytes], hidden: str) -> bytes:
    """A zip archive whose central directory does not list ``hidden``."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
        archive.filelist = [info for info in archive.filelist if info.filename != hidden]
    return file.getvalue()
