"""Reading tensors from a safetensors file, knowing that they are the bytes that were hashed.

One pass over the file computes its SHA-256, a SHA-256 per tensor and the count of non-finite values, in
chunks, so that a file of any size is checked in constant memory. A tensor is then read on demand, and its
bytes are hashed again and compared with the pass: whoever changes the file in between gets an error, not a
different model.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

from auditor.artifact.byte_source import open_regular
from auditor.artifact.hashing import tensor_hash
from auditor.artifact.limits import DEFAULT_LIMITS, Limits
from auditor.artifact.nonfinite import can_be_nonfinite, count_nonfinite, float8_table
from auditor.artifact.safetensors_header import DTYPE_BITS, Header, TensorSpec, header_length, parse_header
from auditor.errors import MalformedArtifact, RefusedArtifact, UnsupportedArtifact
from auditor.text import inert

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["NonFinite", "SafetensorsFile"]

# Fits the second-level cache, so that two hashes and a count read memory once; whole elements of every dtype.
_CHUNK = 1 << 20

_NUMPY = {
    "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8",
    "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8", "C64": "<c8",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class NonFinite:
    """How many values of a file are no numbers.

    Attributes:
        nan: NaN values in all tensors.
        inf: infinite values in all tensors.
        by_tensor: ``name -> (nan, inf)``, only tensors that have any.
    """

    nan: int
    inf: int
    by_tensor: dict[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class _Pass:
    sha256: str
    digests: dict[str, bytes]
    nonfinite: NonFinite


class SafetensorsFile:
    """A validated safetensors file, open for reading.

    Use as a context manager. Opening reads and checks the header only; the first use of :attr:`sha256`,
    :attr:`tensor_hash`, :meth:`count_nonfinite` or :meth:`tensor` reads the file once from end to end.

    Args:
        path: a regular file; its name and extension mean nothing.
        limits: caps on what is read.

    Raises:
        UsageError: there is no such file, or it cannot be read.
        RefusedArtifact: not a regular file, too large, or changed while being read.
        MalformedArtifact: not a valid safetensors file.
    """

    def __init__(self, path: str | Path, limits: Limits = DEFAULT_LIMITS) -> None:
        self.path = Path(path)
        self._shown = inert(str(path))
        self._fd = open_regular(path)
        self._closed = False
        self._passed: _Pass | None = None
        try:
            self._state = self._stat()
            self._header_text, self.header = self._read_header(limits)
        except BaseException:
            self.close()
            raise

    @property
    def names(self) -> tuple[str, ...]:
        """Tensor names, in the order of their data."""
        return tuple(self.header.tensors)

    @property
    def sha256(self) -> str:
        """SHA-256 of the whole file, in hexadecimal."""
        return self._pass().sha256

    def screen(self) -> tuple[str, int]:
        """:attr:`sha256`, and how many values are NaN or infinite; the pass tells no tensor from its neighbours."""
        if self._passed is not None:
            return self._passed.sha256, self._passed.nonfinite.nan + self._passed.nonfinite.inf
        whole = hashlib.sha256(self._header_text)
        buffer = memoryview(bytearray(_CHUNK))
        found = 0
        for dtype, first, end in self._runs():
            floating = can_be_nonfinite(dtype)
            for start in range(first, end, _CHUNK):
                chunk = buffer[: min(_CHUNK, end - start)]
                self._fill(chunk, start)
                whole.update(chunk)
                found += sum(count_nonfinite(dtype, chunk)) if floating else 0
        self._check_unchanged()
        return whole.hexdigest(), found

    def _runs(self) -> list[tuple[str, int, int]]:
        """Neighbouring tensors of one type as one stretch of data: (dtype, start, end)."""
        runs: list[tuple[str, int, int]] = []
        for spec in self.header.tensors.values():
            if runs and runs[-1][0] == spec.dtype and runs[-1][2] == spec.start:
                runs[-1] = (spec.dtype, runs[-1][1], spec.end)
            else:
                runs.append((spec.dtype, spec.start, spec.end))
        return runs

    @property
    def tensor_hash(self) -> str:
        """Hash of names, dtypes, shapes and values; see :func:`auditor.artifact.hashing.tensor_hash`."""
        return tensor_hash(self.header.tensors, self._pass().digests)

    def count_nonfinite(self) -> NonFinite:
        """Counts NaN and infinite values, in all floating-point tensors."""
        return self._pass().nonfinite

    def tensor(self, name: str) -> NDArray[Any]:
        """Reads one tensor.

        Args:
            name: one of :attr:`names`.

        Returns:
            A new writable array of the tensor's shape. BF16 and 8-bit floats become float32, exactly; every
            other dtype is kept.

        Raises:
            KeyError: there is no such tensor.
            RefusedArtifact: the bytes are not those that were hashed.
            UnsupportedArtifact: a dtype of less than eight bits, which numpy cannot hold.
        """
        spec = self.header.tensors[name]
        if DTYPE_BITS[spec.dtype] < 8:
            raise UnsupportedArtifact(
                f"tensor '{inert(name)}' has the packed dtype {spec.dtype}, which is not read"
            )
        expected = self._pass().digests[name]
        data = bytearray(spec.nbytes)
        self._fill(memoryview(data), spec.start)
        if hashlib.sha256(data).digest() != expected:
            self._changed()
        return _decode(spec, data)

    def close(self) -> None:
        """Closes the file; safe to call twice."""
        if not self._closed:
            self._closed = True
            os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read_header(self, limits: Limits) -> tuple[bytes, Header]:
        size = self._state[0]
        if size > limits.file_bytes:
            raise RefusedArtifact(f"'{self._shown}' has {size} bytes and the cap is {limits.file_bytes}")
        prefix = os.pread(self._fd, 8, 0)
        length = header_length(prefix, size, limits)
        text = os.pread(self._fd, length, 8)
        if len(text) != length:
            self._changed()
        return prefix + text, parse_header(text, size, limits)

    def _pass(self) -> _Pass:
        if self._closed:
            raise ValueError("the safetensors file is closed")
        if self._passed is None:
            self._passed = self._read_all()
        return self._passed

    def _read_all(self) -> _Pass:
        whole = hashlib.sha256(self._header_text)
        buffer = memoryview(bytearray(_CHUNK))
        digests: dict[str, bytes] = {}
        counts: dict[str, tuple[int, int]] = {}
        for spec in self.header.tensors.values():
            own = hashlib.sha256()
            floating = can_be_nonfinite(spec.dtype)
            nan = inf = 0
            for start in range(spec.start, spec.end, _CHUNK):
                chunk = buffer[: min(_CHUNK, spec.end - start)]
                self._fill(chunk, start)
                whole.update(chunk)
                own.update(chunk)
                if floating:
                    found = count_nonfinite(spec.dtype, chunk)
                    nan, inf = nan + found[0], inf + found[1]
            digests[spec.name] = own.digest()
            if nan or inf:
                counts[spec.name] = (nan, inf)
        self._check_unchanged()
        nonfinite = NonFinite(sum(n for n, _ in counts.values()), sum(i for _, i in counts.values()), counts)
        return _Pass(whole.hexdigest(), digests, nonfinite)

    def _fill(self, target: memoryview, start: int) -> None:
        # preadv may return less than asked for.
        offset, done = len(self._header_text) + start, 0
        while done < len(target):
            got = os.preadv(self._fd, [target[done:]], offset + done)
            if got == 0:
                self._changed()
            done += got

    def _stat(self) -> tuple[int, int, int, int]:
        status = os.fstat(self._fd)
        return status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev

    def _check_unchanged(self) -> None:
        if self._stat() != self._state or os.pread(self._fd, len(self._header_text), 0) != self._header_text:
            self._changed()

    def _changed(self) -> NoReturn:
        raise RefusedArtifact(
            f"'{self._shown}' changed while it was read; copy it to a safe place and try again"
        )


def _decode(spec: TensorSpec, data: bytearray) -> NDArray[Any]:
    import numpy as np

    array: NDArray[Any]
    if spec.dtype == "BF16":
        array = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    elif spec.dtype.startswith("F8_"):
        array = float8_table(spec.dtype)[np.frombuffer(data, np.uint8)]
    elif spec.dtype == "BOOL":
        # Any byte may stand here, and numpy's behaviour is undefined for a bool that is neither 0 nor 1.
        array = np.frombuffer(data, np.uint8) != 0
    elif spec.dtype in _NUMPY:
        array = np.frombuffer(data, _NUMPY[spec.dtype])
    else:
        raise MalformedArtifact(f"tensor '{inert(spec.name)}' has the unknown dtype {inert(spec.dtype)}")
    return array.reshape(spec.shape)
