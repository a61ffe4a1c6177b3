"""Named tensors, described now and read when asked: the interface that dialects are written against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from auditor.errors import MalformedArtifact
from auditor.text import inert

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor.artifact.safetensors_file import SafetensorsFile

__all__ = ["ArrayTensors", "FileTensors", "Tensor", "TensorInfo", "TensorSource", "tensor_of"]

_SAFETENSORS_NAME = {"float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32"}


class TensorInfo(Protocol):
    """What a header says of one tensor."""

    @property
    def dtype(self) -> str:
        """The name of the stored type, as safetensors spells it (``F16``)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The stored shape."""


class TensorSource(Protocol):
    """Named tensors with their specs and free text, from a file or from memory."""

    @property
    def specs(self) -> Mapping[str, TensorInfo]:
        """Name to stored type and shape, without reading any tensor."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """The free text beside the tensors; untrusted."""

    def read(self, name: str) -> NDArray[Any]:
        """Reads one tensor; numpy has no bfloat16, so such types come as float32."""


@dataclass(frozen=True)
class Tensor:
    """One tensor: type and shape are known, the values are read by :meth:`array`.

    Attributes:
        name: the key in its source; untrusted.
        dtype: the stored type, as safetensors spells it.
        shape: the stored shape, or what is left of it by :meth:`rows`.
        source: where :meth:`array` reads from.
        spans: ranges of stored rows, in order; None for all of them.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    source: TensorSource = field(repr=False, compare=False)
    spans: tuple[tuple[int, int], ...] | None = None

    def array(self) -> NDArray[np.float32]:
        """Reads the values as float32, in the shape of :attr:`shape`."""
        import numpy as np

        # A float64 beyond float32 becomes infinite, which readers of the values check for.
        with np.errstate(over="ignore", invalid="ignore"):
            stored = self.source.read(self.name)
            if self.spans is not None:
                stored = np.concatenate([stored[start:stop] for start, stop in self.spans])
            return np.asarray(stored, dtype=np.float32)

    def rows(self, start: int, stop: int) -> Tensor:
        """Some of its rows, as a tensor that reads them when asked; the name stays that of the whole."""
        return self.arranged(((start, stop),))

    def arranged(self, spans: tuple[tuple[int, int], ...]) -> Tensor:
        """Ranges of its rows one behind the other, as a tensor that reads them when asked.

        Raises:
            ValueError: a range is empty or reaches beyond the rows.
        """
        count = self.shape[0] if self.shape else 0
        if not spans or not all(0 <= start < stop <= count for start, stop in spans):
            raise ValueError(f"rows {spans} of a tensor of shape {self.shape}")
        own = self.spans if self.spans is not None else ((0, count),)
        taken = tuple(piece for start, stop in spans for piece in _within(own, start, stop))
        rows = sum(stop - start for start, stop in spans)
        return replace(self, shape=(rows, *self.shape[1:]), spans=taken)

    def scalar(self) -> float:
        """Reads a tensor of one element.

        Raises:
            MalformedArtifact: it holds more or less than one element.
        """
        if _elements(self.shape) != 1:
            raise MalformedArtifact(f"'{inert(self.name)}' should hold one number but has shape {self.shape}")
        return float(self.array().reshape(-1)[0])


@dataclass(frozen=True)
class _Spec:
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ArrayTensors:
    """Tensors already in memory.

    Attributes:
        arrays: name to array.
        metadata: the free text that a file would carry beside them.
    """

    arrays: Mapping[str, NDArray[Any]]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def specs(self) -> Mapping[str, TensorInfo]:
        """See :class:`TensorSource`."""
        return {
            name: _Spec(_SAFETENSORS_NAME.get(str(array.dtype), str(array.dtype).upper()), tuple(array.shape))
            for name, array in self.arrays.items()
        }

    def read(self, name: str) -> NDArray[Any]:
        """See :class:`TensorSource`."""
        return self.arrays[name]


@dataclass(frozen=True)
class FileTensors:
    """The tensors of an open safetensors file."""

    file: SafetensorsFile

    @property
    def specs(self) -> Mapping[str, TensorInfo]:
        """See :class:`TensorSource`."""
        return self.file.header.tensors

    @property
    def metadata(self) -> Mapping[str, str]:
        """See :class:`TensorSource`."""
        return self.file.header.metadata

    def read(self, name: str) -> NDArray[Any]:
        """See :class:`TensorSource`; the bytes are those that were hashed."""
        array: NDArray[Any] = self.file.tensor(name)
        return array


def tensor_of(source: TensorSource, name: str) -> Tensor:
    """Describes one tensor of a source without reading it."""
    spec = source.specs[name]
    return Tensor(name, spec.dtype, tuple(spec.shape), source)


def _within(own: tuple[tuple[int, int], ...], start: int, stop: int) -> Iterator[tuple[int, int]]:
    """The stored rows behind the rows ``start`` to ``stop`` of a tensor that itself has only ``own``."""
    before = 0
    for first, last in own:
        low, high = max(start - before, 0), min(stop - before, last - first)
        if low < high:
            yield first + low, first + high
        before += last - first


def _elements(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
