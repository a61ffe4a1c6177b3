"""Named tensors, described now and read when asked: the interface that dialects are written against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
        shape: the stored shape.
        source: where :meth:`array` reads from.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    source: TensorSource = field(repr=False, compare=False)

    def array(self) -> NDArray[np.float32]:
        """Reads the values as float32, in the stored shape."""
        import numpy as np

        # A float64 beyond float32 becomes infinite, which readers of the values check for.
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(self.source.read(self.name), dtype=np.float32)

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


def _elements(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
