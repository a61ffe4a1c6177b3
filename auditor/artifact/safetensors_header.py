"""A strict reader of safetensors headers.

The format (github.com/huggingface/safetensors, README "Format"): eight bytes of little-endian length, a JSON
object of that many bytes, then the tensor data, which the header's offsets cover exactly. Everything that the
reference library refuses is refused here. Where the library is lenient we are stricter, on purpose:

* the header starts with ``{`` (the library skips white space before it);
* no key appears twice, at any level (the library keeps the last one, other readers the first);
* a tensor entry is an object with ``dtype``, ``shape`` and ``data_offsets`` and nothing else;
* ``__metadata__`` is an object, not ``null``;
* no dimension is 2**40 or more, and the caps of :class:`~auditor.artifact.limits.Limits` hold.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

from auditor.artifact.byte_source import open_source
from auditor.artifact.hostile_text import mapping_problems
from auditor.artifact.limits import DEFAULT_LIMITS, Limits
from auditor.artifact.problems import Problem, problem
from auditor.errors import MalformedArtifact
from auditor.text import inert

__all__ = ["DTYPE_BITS", "Header", "TensorSpec", "header_length", "parse_header", "read_header"]

DTYPE_BITS: Mapping[str, int] = MappingProxyType(
    {"BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64}
    | {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
    | {"F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8}
    | {"F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64}
)
"""Bits per element of every dtype that the format knows (library version 0.8)."""

_MAX_DIMENSION = 1 << 40
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_*+-][A-Za-z0-9_.:*+ -]*")
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.S)
_BRACKET = re.compile(rb"[\[\]{}]")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor as the header describes it.

    Attributes:
        name: untrusted.
        dtype: a key of :data:`DTYPE_BITS`.
        shape: dimensions, each >= 0; ``()`` is a scalar.
        start: first byte, counted from the start of the data section.
        end: one past the last byte.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def nbytes(self) -> int:
        """Bytes of data."""
        return self.end - self.start

    @property
    def elements(self) -> int:
        """Number of elements, 1 for a scalar."""
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True, slots=True)
class Header:
    """A header that passed every check.

    Attributes:
        tensors: by name, in the order of their data.
        metadata: the ``__metadata__`` map; untrusted claims.
        header_bytes: length of the JSON text; the data section starts at ``8 + header_bytes``.
        file_bytes: length of the whole file.
        problems: oddities that do not break the format.
    """

    tensors: dict[str, TensorSpec]
    metadata: dict[str, str]
    header_bytes: int
    file_bytes: int
    problems: tuple[Problem, ...]


def read_header(
    source: str | Path | bytes | bytearray | memoryview, limits: Limits = DEFAULT_LIMITS
) -> Header:
    """Reads and checks the header of a safetensors file, without touching the tensor data.

    Args:
        source: a path, or the bytes of a whole file.
        limits: caps; beyond them the file is refused as malformed.

    Raises:
        MalformedArtifact: the file breaks the format or a cap.
        UsageError: the path does not exist or cannot be read.
        RefusedArtifact: the path is not a regular file.
    """
    if not isinstance(source, str | Path):
        view = memoryview(source)
        length = header_length(bytes(view[:8]), len(view), limits)
        return parse_header(bytes(view[8 : 8 + length]), len(view), limits)
    with open_source(source) as opened:
        length = header_length(opened.read(0, 8), opened.size, limits)
        return parse_header(opened.read(8, length), opened.size, limits)


def parse_header(text: bytes, file_bytes: int, limits: Limits = DEFAULT_LIMITS) -> Header:
    """Checks a header's JSON against the size of its file.

    Args:
        text: the JSON, without the eight length bytes.
        file_bytes: size of the whole file, the length bytes included.
        limits: caps.

    Raises:
        MalformedArtifact: the header breaks the format or a cap.
    """
    entries = _load_json(text, limits)
    metadata = _metadata(entries.pop("__metadata__", {}), limits)
    if len(entries) > limits.tensors:
        _reject(f"it has more than {limits.tensors} tensors")
    specs = sorted((_spec(name, entry, limits) for name, entry in entries.items()), key=_by_offset)
    _check_layout(specs, file_bytes - 8 - len(text))
    header = Header({spec.name: spec for spec in specs}, metadata, len(text), file_bytes, ())
    return Header(header.tensors, metadata, len(text), file_bytes, _oddities(header, limits))


def header_length(prefix: bytes, file_bytes: int, limits: Limits = DEFAULT_LIMITS) -> int:
    """Checks the eight length bytes that start a file of ``file_bytes`` bytes; returns the length."""
    if len(prefix) < 8:
        _reject("it is shorter than the eight bytes of the header length")
    length = int.from_bytes(prefix, "little")
    if length > limits.header_bytes:
        _reject(f"its header claims {length} bytes and the cap is {limits.header_bytes}")
    if length > file_bytes - 8:
        _reject(f"its header claims {length} bytes and only {file_bytes - 8} follow")
    return length


def _load_json(text: bytes, limits: Limits) -> dict[str, object]:
    if not text.startswith(b"{"):
        _reject("its header does not start with '{'")
    _check_json_size(text, limits)
    try:
        decoded = text.decode("utf-8")
        loaded = json.loads(
            decoded,
            object_pairs_hook=_unique,
            parse_int=_size,
            parse_float=_no_number,
            parse_constant=_no_number,
        )
    except UnicodeDecodeError as error:
        raise MalformedArtifact(
            f"not a safetensors file: its header is not UTF-8 at byte {error.start}"
        ) from error
    except RecursionError as error:
        raise MalformedArtifact("not a safetensors file: its header is nested too deeply") from error
    except ValueError as error:
        raise MalformedArtifact(
            f"not a safetensors file: its header is not valid JSON ({inert(str(error))})"
        ) from error
    if not isinstance(loaded, dict):
        _reject("its header is not a JSON object")
    return loaded


def _check_json_size(text: bytes, limits: Limits) -> None:
    # Counted before parsing: a list of millions of empty lists would take a hundred times its text in memory.
    skeleton = _STRING.sub(b"", text)
    if skeleton.count(b"[") + skeleton.count(b"{") > 3 * limits.tensors + 2 * limits.json_depth:
        _reject("its header holds more objects and lists than any model needs")
    if skeleton.count(b",") > 16 * limits.tensors:
        _reject("its header holds more values than any model needs")
    brackets = _BRACKET.findall(skeleton)
    depth = max(accumulate(1 if bracket in b"[{" else -1 for bracket in brackets), default=0)
    if depth > limits.json_depth:
        _reject(f"its header is nested deeper than {limits.json_depth}")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = sorted(key for key, _ in pairs)
        twice = next(key for key, following in pairwise(keys) if key == following)
        raise MalformedArtifact(
            f"not a safetensors file: the key '{inert(twice)}' appears twice in its header"
        )
    return result


def _size(digits: str) -> int:
    # "-0" is an integer to Python's reader and a float to the reference library.
    if digits.startswith("-") or len(digits) > 20:
        raise ValueError(f"{digits[:24]} is not a size")
    return int(digits)


def _no_number(literal: str) -> NoReturn:
    raise ValueError(f"{literal[:24]} is not a size")


def _metadata(value: object, limits: Limits) -> dict[str, str]:
    if not isinstance(value, dict):
        _reject("'__metadata__' is not an object")
    for key, text in value.items():
        if not isinstance(text, str):
            _reject(f"the metadata value of '{inert(key)}' is not a string")
        if len(key) > limits.name_length:
            _reject(f"a metadata key is longer than {limits.name_length} characters")
        _check_encodable(key)
        _check_encodable(text)
    return value


def _spec(name: str, entry: object, limits: Limits) -> TensorSpec:
    _check_encodable(name)
    if len(name) > limits.name_length:
        _reject(f"a tensor name is longer than {limits.name_length} characters")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        _reject(f"the entry of tensor '{inert(name)}' is not exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        _reject(f"tensor '{inert(name)}' has the unknown dtype '{inert(str(dtype), 24)}'")
    if not isinstance(shape, list) or not all(type(size) is int and size < _MAX_DIMENSION for size in shape):
        _reject(f"the shape of tensor '{inert(name)}' is not a list of sizes below 2**40")
    if len(shape) > limits.dims:
        _reject(f"tensor '{inert(name)}' has {len(shape)} dimensions and the cap is {limits.dims}")
    if (
        not isinstance(offsets, list)
        or len(offsets) != 2
        or not all(type(offset) is int for offset in offsets)
    ):
        _reject(f"the data_offsets of tensor '{inert(name)}' are not two integers")
    spec = TensorSpec(name, dtype, tuple(shape), *offsets)
    _check_size(spec)
    return spec


def _check_size(spec: TensorSpec) -> None:
    bits = DTYPE_BITS[spec.dtype]
    for size in spec.shape:
        bits *= size
        if bits >= 1 << 63:
            _reject(f"the size of tensor '{inert(spec.name)}' overflows 64 bits")
    if bits % 8 or bits // 8 != spec.end - spec.start:
        _reject(
            f"tensor '{inert(spec.name)}' spans {spec.end - spec.start} bytes "
            f"but its shape and dtype need {bits / 8:g}"
        )


def _by_offset(spec: TensorSpec) -> tuple[int, int, str]:
    return spec.start, spec.end, spec.name


def _check_layout(specs: list[TensorSpec], data_bytes: int) -> None:
    position = 0
    for spec in specs:
        if spec.start != position:
            kind = "overlaps the tensor before it" if spec.start < position else "leaves a hole before it"
            _reject(f"tensor '{inert(spec.name)}' {kind} at byte {position}")
        position = spec.end
    if position != data_bytes:
        what = "bytes follow the last tensor" if position < data_bytes else "bytes are missing at the end"
        _reject(f"{abs(data_bytes - position)} {what}")


def _check_encodable(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise MalformedArtifact("not a safetensors file: its header has half of a surrogate pair") from error


def _oddities(header: Header, limits: Limits) -> tuple[Problem, ...]:
    found: list[Problem] = []
    if header.header_bytes > limits.large_header_bytes:
        found.append(
            problem("safetensors.large_header", "low", f"the header takes {header.header_bytes} bytes")
        )
    if not header.tensors:
        found.append(problem("safetensors.no_tensors", "low", "the file holds no tensors"))
    empty = sum(spec.nbytes == 0 for spec in header.tensors.values())
    if empty:
        found.append(problem("safetensors.empty_tensor", "low", f"{empty} tensors hold no elements"))
    odd = {name: name for name in header.tensors if not _PLAIN_NAME.fullmatch(name)}
    if odd:
        first = next(iter(odd))
        found.append(
            problem(
                "safetensors.odd_name", "info", f"{len(odd)} tensor names are unusual, the first is '{first}'"
            )
        )
    found.extend(mapping_problems(odd, "tensor name"))
    found.extend(mapping_problems({key: key for key in header.metadata}, "metadata key"))
    found.extend(mapping_problems(header.metadata, "metadata value of"))
    return tuple(found)


def _reject(why: str) -> NoReturn:
    raise MalformedArtifact(f"not a safetensors file that can be trusted: {why}")
