"""Small files that ask for a lot of time, memory or disk. Each is made when asked for, and stays below 40 MB."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable

from auditor.proving.scan import craft
from auditor.proving.scan.specimen import Specimen, one_file

__all__ = ["BOMBS"]

_MIB = 1 << 20


def _inflating(size: int) -> bytes:
    return craft.zipped({"archive/data.pkl": bytes(size)}, zipfile.ZIP_DEFLATED)


def _nested_zip() -> bytes:
    inner = craft.zipped({"zeros.bin": bytes(8 * _MIB)}, zipfile.ZIP_DEFLATED)
    for level in range(5):
        inner = craft.zipped({f"{level}-{copy}.zip": inner for copy in range(8)}, zipfile.ZIP_DEFLATED)
    return inner


def _overlapping() -> bytes:
    """Thousands of members over one kernel, after David Fifield, 'A better zip bomb' (2019)."""
    kernel = craft.zipped({"0": bytes(4 * _MIB)}, zipfile.ZIP_DEFLATED)
    at = kernel.index(b"PK\x01\x02")
    entry, end = kernel[at : kernel.index(b"PK\x05\x06")], kernel[kernel.index(b"PK\x05\x06") :]
    count = 4000
    size = struct.pack("<HHL", count, count, count * len(entry))
    return kernel[:at] + entry * count + end[:8] + size + end[16:]


def _alias_storm() -> bytes:
    """Lists of the list before, ten times each, a hundred deep (as 'billion laughs' in XML)."""
    level = b"".join(b"](" + b"h%b" % bytes([i]) * 10 + b"eq%b0" % bytes([i + 1]) for i in range(100))
    return craft.pickled(b"]q\x000", level, b"h\x64")


def _tuple_storm() -> bytes:
    return craft.pickled(b"N", b"2\x86" * 500)


def _tensor_storm() -> bytes:
    """A hundred thousand views of one storage: tiny on disk, 400 GB once they are copied."""
    shape = (1 << 20,)
    views = b"".join(b"X" + struct.pack("<I", 6) + b"%06d" % i + b"h\x01" for i in range(100_000))
    first = craft.tensor("0", 1 << 20, shape, (0,)) + b"q\x010"
    return craft.torch_zip(
        craft.pickled(first, b"}(", views, b"u"), {"0": bytes(4 << 20)}, zipfile.ZIP_DEFLATED
    )


_ROWS: tuple[tuple[str, str, str, Callable[[], bytes]], ...] = (
    ("member that inflates a thousandfold", "zip bomb", "model.pt", lambda: _inflating(300 * _MIB)),
    ("zips in zips in zips", "nested zip bomb", "model.zip", _nested_zip),
    ("members that overlap", "zip bomb over one kernel (Fifield 2019)", "model.zip", _overlapping),
    (
        "sixty thousand members",
        "a directory without end",
        "model.zip",
        lambda: craft.zipped({f"{i:x}": b"" for i in range(60_000)}),
    ),
    (
        "deep JSON",
        "JSON bomb: depth",
        "lora.safetensors",
        lambda: craft.safetensors(b'{"a":' + b"[" * 4_000_000),
    ),
    (
        "a million empty lists",
        "JSON bomb: a hundred times its text in memory",
        "lora.safetensors",
        lambda: craft.safetensors(b'{"a":[' + b"[]," * 3_000_000 + b"[]]}"),
    ),
    (
        "ten million numbers",
        "JSON bomb",
        "lora.safetensors",
        lambda: craft.safetensors(b'{"a":[' + b"1," * 10_000_000 + b"1]}"),
    ),
    (
        "integer of a million digits",
        "JSON bomb: quadratic number parsing",
        "lora.safetensors",
        lambda: craft.safetensors(
            b'{"a":{"dtype":"F32","shape":[' + b"9" * 1_000_000 + b'],"data_offsets":[0,4]}}', bytes(4)
        ),
    ),
    (
        "string of backslashes",
        "JSON bomb: quadratic matching",
        "lora.safetensors",
        lambda: craft.safetensors(b'{"' + b"\\\\" * 8_000_000 + b"\\"),
    ),
    (
        "header of 33 MB",
        "a huge header",
        "lora.safetensors",
        lambda: craft.safetensors(b'{"__metadata__":{"a":"' + b"x" * (33 * _MIB) + b'"}}'),
    ),
    (
        "two hundred thousand tensors",
        "a huge header",
        "lora.safetensors",
        lambda: craft.safetensors({str(i): craft.entry(0, [0]) for i in range(200_000)}),
    ),
    (
        "tensor of a thousand dimensions",
        "huge shapes",
        "lora.safetensors",
        lambda: craft.safetensors({"a": craft.entry(0, [1] * 1000)}, bytes(4)),
    ),
    ("alias storm", "billion laughs in a pickle", "model.pkl", _alias_storm),
    ("tuple storm", "billion laughs: a tuple of itself twice, 500 deep", "model.pkl", _tuple_storm),
    ("tensor storm", "views of stride 0: a terabyte from a few bytes", "model.pt", _tensor_storm),
    (
        "millions of opcodes",
        "a pickle without end",
        "model.pkl",
        lambda: craft.pickled(b"N0" * 5_000_000, b"N"),
    ),
    (
        "deep lists",
        "recursion in whoever walks the value",
        "model.pkl",
        lambda: craft.pickled(b"]" * 2_000_000 + b"a" * 1_999_999),
    ),
    (
        "marks without end",
        "memory by one byte each",
        "model.pkl",
        lambda: craft.pickled(b"(" * 4_500_000, b"N"),
    ),
    (
        "bytes of 2**62",
        "an allocation by its length alone",
        "model.pkl",
        lambda: craft.pickled(b"\x8e" + struct.pack("<Q", 1 << 62)),
    ),
    (
        "bytearray of 2**40",
        "an allocation by its length alone",
        "model.pkl",
        lambda: b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".",
    ),
    (
        "bytes of a number",
        "bytes(10**12) is that many zeros",
        "model.pkl",
        lambda: craft.pickled(craft.call("builtins", "bytes", b"\x8a\x06" + (10**12).to_bytes(6, "little"))),
    ),
    (
        "references without end",
        "a report that grows with the file",
        "model.pkl",
        lambda: craft.pickled(b"".join(craft.global_(f"m{i}", "f") + b"0" for i in range(200_000)), b"N"),
    ),
    (
        "memo of a huge index",
        "an array allocated by an index",
        "model.pkl",
        lambda: craft.pickled(b"Nr\xff\xff\xff\xff", craft.PAYLOAD),
    ),
)

BOMBS: tuple[Specimen, ...] = tuple(
    Specimen(name, "bomb", stands_for, one_file(file, make)) for name, stands_for, file, make in _ROWS
)
"""All of them."""
