"""A minimal, deterministic safetensors writer.

The same tensors and metadata give the same bytes: tensors are ordered by falling element size, then by name
(so that every tensor is aligned), keys are sorted, and the header is padded with spaces to a multiple of
eight.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from auditor.artifact.safetensors_header import DTYPE_BITS
from auditor.errors import MalformedArtifact, OutputError
from auditor.text import inert

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Entry", "encode_arrays", "write_arrays", "write_entries"]

_NUMPY_TO_DTYPE = {
    "b1": "BOOL", "u1": "U8", "i1": "I8", "u2": "U16", "i2": "I16", "u4": "U32", "i4": "I32", "u8": "U64",
    "i8": "I64", "f2": "F16", "f4": "F32", "f8": "F64", "c8": "C64",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor to be written.

    Attributes:
        name: its key.
        dtype: a key of :data:`~auditor.artifact.safetensors_header.DTYPE_BITS`.
        shape: dimensions.
        data: little-endian bytes in C order, in any number of pieces.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: Iterable[bytes | memoryview]

    @property
    def nbytes(self) -> int:
        """Bytes that shape and dtype ask for."""
        bits = DTYPE_BITS[self.dtype]
        for size in self.shape:
            bits *= size
        return bits // 8


def write_entries(file: BinaryIO, entries: Sequence[Entry], metadata: Mapping[str, str]) -> int:
    """Writes a whole safetensors file.

    Args:
        file: opened for binary writing, at its start.
        entries: tensors with distinct names, in any order.
        metadata: strings only.

    Returns:
        The number of bytes written.

    Raises:
        MalformedArtifact: an entry's data is not as long as its shape and dtype say, or two have one name.
    """
    names = {entry.name for entry in entries}
    if len(names) != len(entries) or "__metadata__" in names:
        raise MalformedArtifact("the tensors to be written do not have distinct names of their own")
    ordered = sorted(entries, key=lambda entry: (-DTYPE_BITS[entry.dtype], entry.name))
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    position = 0
    for entry in ordered:
        offsets = [position, position + entry.nbytes]
        header[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": offsets}
        position = offsets[1]
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little"))
    file.write(text)
    for entry in ordered:
        written = sum(file.write(piece) for piece in entry.data)
        if written != entry.nbytes:
            raise MalformedArtifact(
                f"tensor '{inert(entry.name)}' has {written} bytes of data, not {entry.nbytes}"
            )
    return 8 + len(text) + position


def encode_arrays(arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None) -> bytes:
    """Encodes numpy arrays (bool, integer, float and complex64 dtypes) as the bytes of a safetensors file."""
    file = io.BytesIO()
    write_entries(file, [_entry(name, array) for name, array in arrays.items()], metadata or {})
    return file.getvalue()


def write_arrays(
    path: str | Path, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None
) -> Path:
    """Writes numpy arrays to a new safetensors file; the file appears whole or not at all.

    Raises:
        OutputError: the file exists already or cannot be written.
    """
    target = Path(path)
    if target.exists():
        raise OutputError(f"'{inert(str(target))}' exists already; choose another name")
    entries = [_entry(name, array) for name, array in arrays.items()]
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        try:
            with temporary.open("xb") as file:
                write_entries(file, entries, metadata or {})
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write '{inert(str(target))}': {error.strerror}") from error
    return target


def _entry(name: str, array: NDArray[Any]) -> Entry:
    import numpy as np

    kind = array.dtype.str[1:]
    if kind not in _NUMPY_TO_DTYPE:
        raise MalformedArtifact(
            f"tensor '{inert(name)}' has the dtype {array.dtype}, which safetensors cannot hold"
        )
    little: np.ndarray[Any, Any] = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return Entry(name, _NUMPY_TO_DTYPE[kind], array.shape, (little.tobytes(),))
