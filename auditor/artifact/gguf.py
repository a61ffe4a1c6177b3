"""The header of a GGUF file: architecture, number of tensors, and how they are quantised. No tensor is read.

Layout as in ggml's ``docs/gguf.md``, versions 2 and 3, little-endian: magic, version, two counts, typed
key-value pairs, then a name, a shape and a type for each tensor.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from auditor.artifact.byte_source import open_source
from auditor.artifact.limits import DEFAULT_LIMITS, Limits
from auditor.errors import MalformedArtifact, RefusedArtifact, UnsupportedArtifact
from auditor.text import inert

__all__ = ["GgufSummary", "read_gguf"]

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
# Value type to its size in bytes.
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_MOST_PAIRS = 100_000
_MOST_AXES = 8
_NESTING = 3
_TYPES = (
    *("F32", "F16", "Q4_0", "Q4_1", "4", "5", "Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
    *("Q8_K", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8", "I16", "I32"),
    *("I64", "F64", "IQ1_M", "BF16", "31", "32", "33", "TQ1_0", "TQ2_0", "36", "37", "38", "MXFP4"),
)  # fmt: skip


@dataclass(frozen=True)
class GgufSummary:
    """What a header says.

    Attributes:
        version: of the format.
        architecture: ``general.architecture``, made inert; empty if it is not named.
        tensors: how many tensors are listed.
        types: storage type to the number of tensors stored so, most frequent first.
    """

    version: int
    architecture: str
    tensors: int
    types: Mapping[str, int]

    @property
    def told(self) -> str:
        """The summary as a part of a sentence."""
        types = ", ".join(f"{name} ({count})" for name, count in self.types.items())
        whose = f" of architecture '{self.architecture}'" if self.architecture else ""
        return f"{self.tensors} tensors{whose}{', stored as ' if types else ''}{types}"


def read_gguf(path: Path, limits: Limits = DEFAULT_LIMITS) -> GgufSummary:
    """Reads a header, at most ``limits.header_bytes`` of it.

    Raises:
        MalformedArtifact: it breaks the format or ends too early.
        RefusedArtifact: it is longer, or lists more, than the limits allow.
        UnsupportedArtifact: it is of another version or byte order.
    """
    with open_source(path) as source:
        data = source.read(0, limits.header_bytes)
        whole = source.size <= len(data)
    return _parse(_Cursor(data, inert(path.name), whole), limits)


@dataclass
class _Cursor:
    """A place in the header; reading beyond its end is an error that tells a short file from a long header."""

    data: bytes
    name: str
    whole: bool
    place: int = 0

    def skip(self, count: int) -> int:
        start, self.place = self.place, self.place + count
        if self.place > len(self.data):
            if self.whole:
                raise MalformedArtifact(f"'{self.name}' ends inside its GGUF header; the file is cut short")
            raise RefusedArtifact(f"the GGUF header of '{self.name}' is longer than {len(self.data)} bytes")
        return start

    def u32(self) -> int:
        return int(struct.unpack_from("<I", self.data, self.skip(4))[0])

    def u64(self) -> int:
        return int(struct.unpack_from("<Q", self.data, self.skip(8))[0])

    def text(self) -> bytes:
        length = self.u64()
        start = self.skip(length)
        return self.data[start : start + length]


def _parse(cursor: _Cursor, limits: Limits) -> GgufSummary:
    if cursor.data[cursor.skip(4) : 4] != _MAGIC:
        raise MalformedArtifact(f"'{cursor.name}' does not begin as a GGUF file")
    version = cursor.u32()
    if version not in _VERSIONS:
        raise UnsupportedArtifact(
            f"'{cursor.name}' is a GGUF file of version {version} or of another byte order, which is not supported: "
            "versions 2 and 3, little-endian, are read"
        )
    tensors, pairs = cursor.u64(), cursor.u64()
    if tensors > limits.tensors or pairs > _MOST_PAIRS:
        raise RefusedArtifact(
            f"'{cursor.name}' claims {tensors} tensors and {pairs} settings; that is too many"
        )
    architecture = b""
    for _ in range(pairs):
        key = cursor.text()
        value = _value(cursor, cursor.u32())
        if key == b"general.architecture" and value is not None:
            architecture = value
    types = Counter(_tensor_type(cursor) for _ in range(tensors))
    shown = inert(architecture.decode("utf-8", "replace"), 40)
    return GgufSummary(version, shown, tensors, dict(types.most_common()))


def _value(cursor: _Cursor, kind: int, depth: int = 0) -> bytes | None:
    """Passes over one value; returns it if it is text."""
    if kind == _STRING:
        return cursor.text()
    if kind == _ARRAY and depth < _NESTING:
        inner, count = cursor.u32(), cursor.u64()
        if inner in _SIZES:
            cursor.skip(_SIZES[inner] * count)
            return None
        # Each element takes at least eight bytes, so a false count ends with the data.
        for _ in range(count):
            _value(cursor, inner, depth + 1)
        return None
    if kind not in _SIZES:
        raise MalformedArtifact(f"'{cursor.name}' has a GGUF setting of unknown type {kind}")
    cursor.skip(_SIZES[kind])
    return None


def _tensor_type(cursor: _Cursor) -> str:
    cursor.text()
    axes = cursor.u32()
    if axes > _MOST_AXES:
        raise MalformedArtifact(f"'{cursor.name}' lists a tensor of {axes} dimensions")
    cursor.skip(8 * axes)
    kind = cursor.u32()
    cursor.skip(8)
    return _TYPES[kind] if kind < len(_TYPES) else str(kind)
