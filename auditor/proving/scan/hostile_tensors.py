"""Safetensors files whose headers lie, and text in them that acts on whoever shows it."""

from __future__ import annotations

import json
import struct

from auditor.proving.scan import craft
from auditor.proving.scan.specimen import Specimen, one_file

__all__ = ["TENSOR_FILES"]

_ONE = craft.entry(0, [1])
_DATA = b"\0" * 4
_LIBRARY = "safetensors: the reference library refuses it"
_READERS = "safetensors: 'duplicate keys are disallowed; not all parsers may respect this'"
_HOLES = "safetensors: the buffer is fully indexed, against polyglots"
_TEXT = "text in metadata that acts on whoever shows it"


def _with_metadata(value: str) -> bytes:
    return craft.safetensors({"__metadata__": {"ss_output_name": value}, "a": _ONE}, _DATA)


_HEADERS: tuple[tuple[str, str, bytes], ...] = (
    ("header length beyond the file", _LIBRARY, struct.pack("<Q", 100) + b"{}"),
    ("header length of 2**64 - 1", "a huge header: an allocation by its length alone", b"\xff" * 8 + b"{}"),
    (
        "header length of 99 MB",
        "a huge header, just below the library's cap",
        struct.pack("<Q", 99_000_000) + b'{"a":{"dtype":"F32"',
    ),
    ("no JSON", _LIBRARY, craft.safetensors(b"{,}")),
    ("NUL behind the JSON", _LIBRARY, craft.safetensors(b"{}\0")),
    ("not UTF-8", _LIBRARY, craft.safetensors(b'{"__metadata__":{"a":"\xff"}}')),
    ("half a surrogate pair", _LIBRARY, craft.safetensors(b'{"__metadata__":{"a":"\\ud800"}}')),
    (
        "key twice",
        _READERS,
        craft.safetensors(b'{"a":%b,"a":%b}' % (json.dumps(_ONE).encode(), json.dumps(_ONE).encode()), _DATA),
    ),
    ("metadata key twice", _READERS, craft.safetensors(b'{"__metadata__":{"a":"1","a":"2"}}')),
    ("hole between tensors", _HOLES, craft.safetensors({"a": craft.entry(4, [1])}, _DATA * 2)),
    ("overlapping tensors", _HOLES, craft.safetensors({"a": _ONE, "b": _ONE}, _DATA)),
    (
        "bytes behind the last tensor",
        _HOLES,
        craft.safetensors({"a": _ONE}, _DATA + craft.pickled(craft.PAYLOAD)),
    ),
    ("bytes missing at the end", _LIBRARY, craft.safetensors({"a": _ONE}, _DATA[:3])),
    ("shape and size differ", _LIBRARY, craft.safetensors({"a": _ONE | {"shape": [2]}}, _DATA)),
    (
        "huge claimed size",
        "a tensor of 2**126 bytes",
        craft.safetensors({"a": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 4]}}, _DATA),
    ),
    (
        "size that overflows to zero",
        "2**63 * 2**63 * 0 elements",
        craft.safetensors({"a": {"dtype": "F32", "shape": [2**63, 2**63, 0], "data_offsets": [0, 0]}}),
    ),
    ("unknown dtype", _LIBRARY, craft.safetensors({"a": _ONE | {"dtype": "OBJECT"}}, _DATA)),
    (
        "unknown field",
        "readers disagree on what they ignore",
        craft.safetensors({"a": _ONE | {"__reduce__": "os.system"}}, _DATA),
    ),
    ("negative offset", _LIBRARY, craft.safetensors({"a": _ONE | {"data_offsets": [-4, 0]}}, _DATA)),
)

_TEXTS: tuple[tuple[str, str, str], ...] = (
    ("script in metadata", "<script>alert(1)</script>", "text.html"),
    ("event handler in metadata", "<img src=x onerror=alert(1)>", "text.html"),
    ("script address in metadata", "javascript:alert(1)", "text.html"),
    ("frame in metadata", "</td><iframe src=//x>", "text.html"),
    ("screen-clearing escape in metadata", "\x1b[2J\x1b[Hno issues found", "text.ansi"),
    ("title-setting escape in metadata", "\x1b]0;owned\x07", "text.ansi"),
    ("one-byte control sequence in metadata", "\x9b31mred", "text.ansi"),
    ("reversed text in metadata", "good\u202egnp.exe", "text.bidi"),
    ("hidden characters in metadata", "sk\u200bs per\u2060son", "text.zero_width"),
    ("tag characters in metadata", "sks" + "".join(chr(0xE0000 + ord(c)) for c in "obey"), "text.zero_width"),
    ("look-alike letters in metadata", "ph\u043eto", "text.confusable"),
)


def _named_tensor(name: str) -> bytes:
    return craft.safetensors({name: _ONE}, _DATA)


TENSOR_FILES: tuple[Specimen, ...] = (
    *(
        Specimen(name, "header", stands_for, one_file("lora.safetensors", data))
        for name, stands_for, data in _HEADERS
    ),
    *(
        Specimen(name, "text", _TEXT, one_file("lora.safetensors", _with_metadata(value)), code=code)
        for name, value, code in _TEXTS
    ),
    Specimen(
        "escape in a tensor name",
        "text",
        _TEXT,
        one_file("lora.safetensors", _named_tensor("\x1b[2Jx")),
        code="text.ansi",
    ),
    Specimen(
        "script in a tensor name",
        "text",
        _TEXT,
        one_file("lora.safetensors", _named_tensor("<script>x")),
        code="text.html",
    ),
    Specimen(
        "values that are no numbers",
        "header",
        "safetensors: NaN and infinity are not checked",
        one_file(
            "lora.safetensors",
            craft.safetensors({"a": craft.entry(0, [2])}, struct.pack("<2f", float("nan"), float("inf"))),
        ),
    ),
)
"""All of them."""
