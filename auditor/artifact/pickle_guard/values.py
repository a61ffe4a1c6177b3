"""What a pickle's stack holds when nothing of it is executed.

Plain constants are themselves (str, bytes, int, float, bool, None). Containers are real lists and tuples, so
that memo aliases behave as in the real machine; dictionaries are lists of pairs, because keys may be
anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Array", "Call", "Dict", "DtypeValue", "Global", "Storage", "Tensor", "Unresolved", "Value"]

Value = Any
"""A constant, list, tuple, or one of the classes below."""


@dataclass(eq=False, slots=True)
class Global:
    """A reference to ``module.name``."""

    module: str
    name: str
    allowed: bool


@dataclass(eq=False, slots=True)
class Dict:
    """A dictionary, OrderedDict or ParameterDict, pairs in the order they were set."""

    pairs: list[tuple[Value, Value]] = field(default_factory=list)
    instance: bool = False
    state: Value = None


@dataclass(eq=False, slots=True)
class Storage:
    """A torch storage named by a persistent id."""

    dtype: str
    key: str
    count: int


@dataclass(eq=False, slots=True)
class Tensor:
    """A strided view of a storage; offset, shape and stride in elements of ``dtype``."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(eq=False, slots=True)
class DtypeValue:
    """A numpy dtype: its code and its byte order as the pickle states it."""

    code: str
    order: str = "|"


@dataclass(eq=False, slots=True)
class Array:
    """A numpy array or scalar: raw bytes with shape, dtype and order; empty until its state arrives."""

    dtype: DtypeValue | None = None
    shape: tuple[int, ...] = ()
    data: bytes | list[Value] | None = None
    fortran: bool = False


@dataclass(eq=False, slots=True)
class Call:
    """The harmless result of an allowed call that has no closer description (a set, a device, a size)."""

    what: str
    args: tuple[Value, ...]


class Unresolved:
    """Something whose value cannot be known without executing the pickle."""

    __slots__ = ()
