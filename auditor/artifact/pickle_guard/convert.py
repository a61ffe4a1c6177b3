"""Writing the tensors of an allowed pickle as safetensors, from the symbolic description alone.

Neither torch nor ``pickle`` is involved: the walker has described each tensor as a strided view of bytes in
the file, and those bytes are copied. Nested names are joined with ``/``: ``{"string_to_param": {"*": T},
"step": 5}`` becomes the tensor ``string_to_param/*`` and the metadata entry ``step = "5"``.
A flat state dict keeps its names. Strings are kept as they are, other scalars are written as JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from auditor.artifact.limits import Limits
from auditor.artifact.pickle_guard.examine import Examination
from auditor.artifact.pickle_guard.storages import Stores, tensor_fault
from auditor.artifact.pickle_guard.values import Array, Call, Dict, Global, Storage, Tensor, Unresolved, Value
from auditor.artifact.safetensors_header import DTYPE_BITS
from auditor.artifact.safetensors_write import Entry, write_entries
from auditor.errors import MalformedArtifact, RefusedArtifact, UnsupportedArtifact
from auditor.text import inert

__all__ = ["flatten", "write_converted"]

_DEPTH = 32
_LONGEST_TEXT = 1 << 16

_ARRAY_DTYPES = {
    "?": "BOOL", "b1": "BOOL", "b": "I8", "i1": "I8", "B": "U8", "u1": "U8", "h": "I16", "i2": "I16", "H":
    "U16", "u2": "U16", "i": "I32", "i4": "I32", "I": "U32", "u4": "U32", "q": "I64", "i8": "I64", "Q":
    "U64", "u8": "U64", "e": "F16", "f2": "F16", "f": "F32", "f4": "F32", "d": "F64", "f8": "F64", "c8":
    "C64",
}  # fmt: skip


def write_converted(exam: Examination, sha256: str, file_bytes: int, out: BinaryIO) -> int:
    """Writes the tensors of an examined, allowed file.

    Args:
        exam: of the whole file, with verdict ``allowed``.
        sha256: of the source, noted in the metadata as ``auditor.source_sha256``.
        file_bytes: size of the source.
        out: opened for writing, at its start.

    Returns:
        The number of bytes written.

    Raises:
        UnsupportedArtifact: it holds no tensors, or something that safetensors cannot hold.
        MalformedArtifact: names collide, or the tree loops or nests too deeply.
        RefusedArtifact: the tensors would take far more room than the file.
    """
    entries: list[Entry] = []
    metadata = {"auditor.source_sha256": sha256, "auditor.source_kind": exam.kind}
    taken = set(metadata)
    for name, leaf in flatten(exam.root, exam.limits):
        if name in taken:
            raise MalformedArtifact(f"two values of the pickle would both be named '{inert(name)}'")
        taken.add(name)
        if isinstance(leaf, Tensor):
            entries.append(Entry(name, leaf.dtype, leaf.shape, _tensor_bytes(leaf, exam.stores)))
        elif isinstance(leaf, Array):
            entries.append(_array_entry(name, leaf))
        else:
            metadata[name] = _scalar_text(leaf)
    if not entries:
        raise UnsupportedArtifact("the pickle holds no tensors")
    total = sum(entry.nbytes for entry in entries)
    # A view with stride 0 takes any room from a few bytes.
    if total > min(exam.limits.converted_bytes, 4 * file_bytes + (16 << 20)):
        raise RefusedArtifact(
            f"the tensors of the pickle would take {total} bytes, its file has {file_bytes}"
        )
    return write_entries(out, entries, metadata)


def flatten(root: Value, limits: Limits) -> Iterator[tuple[str, Value]]:
    """Yields the leaves of a tree of dictionaries, lists and tuples, with their names joined by ``/``."""
    count = 0
    pending: list[tuple[str, Value, int]] = [("", root, 0)]
    while pending:
        name, value, depth = pending.pop()
        if isinstance(value, Dict) or (isinstance(value, list | tuple) and not _is_plain(value)):
            # Depth also ends trees that contain themselves.
            if depth >= _DEPTH:
                raise MalformedArtifact(f"the pickle nests its values deeper than {_DEPTH}")
            children = list(_children(value))
            pending.extend(
                (f"{name}/{key}" if name else key, child, depth + 1) for key, child in reversed(children)
            )
            count += len(children)
            if count > 4 * limits.tensors:
                raise MalformedArtifact("the pickle holds more values than any model needs")
        else:
            yield name or "value", value


def _is_plain(value: list[Value] | tuple[Value, ...]) -> bool:
    return all(item is None or isinstance(item, str | int | float) for item in value)


def _children(value: Value) -> Iterable[tuple[str, Value]]:
    if not isinstance(value, Dict):
        return ((str(index), item) for index, item in enumerate(value))
    state = value.state
    if isinstance(state, Dict):
        # What a module (an old ParameterDict) holds lies in its state.
        own = [
            pair
            for key, sub in state.pairs
            if key in ("_parameters", "_buffers") and isinstance(sub, Dict)
            for pair in sub.pairs
        ]
        pairs = value.pairs + own
    else:
        pairs = value.pairs
    return {_key(key): item for key, item in pairs}.items()


def _key(key: Value) -> str:
    if isinstance(key, bytes):
        key = key.decode("latin-1")
    if not isinstance(key, str | int | float) or (isinstance(key, int) and key.bit_length() > 64):
        raise UnsupportedArtifact("the pickle has a dictionary whose keys are not names or numbers")
    return str(key).encode("utf-8", "backslashreplace").decode("utf-8")


def _scalar_text(leaf: Value) -> str:
    if isinstance(leaf, str):
        text = leaf
    elif leaf is None or isinstance(leaf, int | float | list | tuple):
        text = _json(leaf)
    elif isinstance(leaf, bytes):
        text = f"<{len(leaf)} bytes>"
    elif isinstance(leaf, Global):
        text = f"{leaf.module}.{leaf.name}"
    elif isinstance(leaf, Call):
        text = f"<{leaf.what}>"
    elif isinstance(leaf, Storage):
        raise UnsupportedArtifact("the pickle holds a bare storage, which has no shape")
    elif isinstance(leaf, Unresolved):
        raise RefusedArtifact("the pickle holds a value that cannot be known without executing it")
    else:
        text = f"<{type(leaf).__name__}>"
    return text[:_LONGEST_TEXT].encode("utf-8", "backslashreplace").decode("utf-8")


def _json(leaf: Value) -> str:
    try:
        return json.dumps(leaf)
    except ValueError:
        # An integer of more digits than the interpreter turns into text.
        return "<a huge number>"


def _tensor_bytes(tensor: Tensor, stores: Stores) -> Iterator[bytes | memoryview]:
    fault = tensor_fault(tensor, stores)
    if fault:
        raise RefusedArtifact(fault)
    if 0 in tensor.shape:
        return
    store = stores.by_key[tensor.storage.key]
    itemsize = DTYPE_BITS[tensor.dtype] // 8
    begin = tensor.offset * itemsize
    if _is_contiguous(tensor):
        nbytes = math.prod(tensor.shape) * itemsize
        if store.window is not None:
            yield from store.window.window(begin, nbytes).chunks()
        else:
            yield b"".join(store.chunks())[begin : begin + nbytes]
        return
    import numpy as np

    # The array's own constructor checks once more that strides stay inside the buffer.
    strided: np.ndarray[tuple[int, ...], np.dtype[np.void]] = np.ndarray(
        tensor.shape,
        np.dtype(f"V{itemsize}"),
        b"".join(store.chunks()),
        begin,
        tuple(step * itemsize for step in tensor.stride),
    )
    yield strided.tobytes()


def _is_contiguous(tensor: Tensor) -> bool:
    expected = 1
    for size, step in zip(reversed(tensor.shape), reversed(tensor.stride), strict=True):
        if size != 1 and step != expected:
            return False
        expected *= size
    return True


def _array_entry(name: str, array: Array) -> Entry:
    import numpy as np

    shown = inert(name)
    if array.dtype is None or not isinstance(array.data, bytes):
        raise UnsupportedArtifact(f"the array '{shown}' holds objects, not numbers")
    dtype = _ARRAY_DTYPES.get(array.dtype.code)
    if dtype is None:
        raise UnsupportedArtifact(f"the array '{shown}' has the dtype '{inert(array.dtype.code)}'")
    itemsize = DTYPE_BITS[dtype] // 8
    if math.prod(array.shape) * itemsize != len(array.data):
        raise MalformedArtifact(f"the array '{shown}' does not have as many bytes as its shape needs")
    words = np.frombuffer(array.data, f"V{itemsize}")
    if array.dtype.order == ">" and itemsize > 1:
        # Complex numbers swap each of their two parts.
        part = 4 if dtype == "C64" else itemsize
        words = np.frombuffer(
            np.frombuffer(array.data, f">u{part}").astype(f"<u{part}").tobytes(), f"V{itemsize}"
        )
    shaped = words.reshape(array.shape, order="F" if array.fortran else "C")
    return Entry(name, dtype, array.shape, (shaped.tobytes(),))
