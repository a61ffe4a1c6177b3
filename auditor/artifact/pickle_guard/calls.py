"""What an allowed call results in, worked out symbolically; and whether its arguments are the usual ones.

A rule returns the value, or None when the arguments are not those that torch and numpy write themselves. None
counts as a disallowed reference: an allowed name with strange arguments is how allow-lists get bypassed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

from auditor.artifact.pickle_guard.allowlist import CALLABLES, STORAGES, TORCH_DTYPES
from auditor.artifact.pickle_guard.values import (
    Array,
    Call,
    Dict,
    DtypeValue,
    Global,
    Storage,
    Tensor,
    Value,
)

__all__ = ["apply_call", "apply_state", "resolve_storage"]

_DTYPE_CODE = re.compile(r"[<>=|]?(?:[?bBhHiIlLqQefd]|[biuf](?:1|2|4|8)|c8|c16|[SUV]\d{1,6}|O8?)")
_MAX_SIZE = 1 << 48


def apply_call(function: Global, args: tuple[Value, ...]) -> Value | None:
    """Returns what ``function(*args)`` would be, or None if such a call is not allowed."""
    rule = CALLABLES.get((function.module, function.name))
    return None if rule is None else _RULES[rule](args)


def apply_state(instance: Value, state: Value) -> bool:
    """Gives ``instance`` its pickled state (BUILD); returns whether that is allowed."""
    if isinstance(instance, Dict) and instance.instance:
        # An attribute is plain data, but one that shadows a method would be called later.
        plain = isinstance(state, Dict) and all(_is_attribute(key) for key, _ in state.pairs)
        instance.state = state if plain else None
        return plain
    if isinstance(instance, DtypeValue):
        return _dtype_state(instance, state)
    if isinstance(instance, Array):
        return _array_state(instance, state)
    return False


def resolve_storage(pid: Value) -> Storage | None:
    """Reads a torch persistent id ``("storage", type, key, location, numel[, None])``; None if it is none."""
    if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
        return None
    kind, key, location, count = pid[1:5]
    if not (isinstance(kind, Global) and kind.allowed and isinstance(key, str) and isinstance(location, str)):
        return None
    if type(count) is not int or not 0 <= count < _MAX_SIZE:
        return None
    dtype = "U8" if kind.name == "UntypedStorage" else STORAGES.get(kind.name)
    if dtype is None:
        return None
    # A sixth part describes a view of another storage, which torch has not written since 2018.
    return Storage(dtype, key, count) if len(pid) == 5 or pid[5] is None else None


def _is_attribute(key: Value) -> bool:
    return isinstance(key, str) and (key in {"_metadata", "training"} or key in _MODULE_FIELDS)


_MODULE_FIELDS = frozenset(
    {"_parameters", "_buffers", "_modules", "_backward_hooks", "_forward_hooks", "_forward_pre_hooks"}
    | {
        "_state_dict_hooks",
        "_load_state_dict_pre_hooks",
        "_non_persistent_buffers_set",
        "_is_full_backward_hook",
    }
    | {"_keys", "_backend", "_load_state_dict_post_hooks", "_backward_pre_hooks", "_state_dict_pre_hooks"}
    | {"_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs"}
)


def _is_sizes(values: Value) -> bool:
    if not isinstance(values, tuple | list) or not set(map(type, values)) <= {int}:
        return False
    return not values or (min(values) >= 0 and max(values) < _MAX_SIZE)


def _pairs(args: tuple[Value, ...]) -> list[tuple[Value, Value]] | None:
    if not args:
        return []
    items = args[0].pairs if isinstance(args[0], Dict) else args[0]
    if len(args) > 1 or not isinstance(items, list | tuple):
        return None
    if not all(isinstance(item, list | tuple) and len(item) == 2 for item in items):
        return None
    return [(item[0], item[1]) for item in items]


def _ordered_dict(args: tuple[Value, ...]) -> Value | None:
    pairs = _pairs(args)
    return None if pairs is None else Dict(pairs, instance=True)


def _parameter_dict(args: tuple[Value, ...]) -> Value | None:
    return None if args else Dict([], instance=True)


def _tensor(args: tuple[Value, ...]) -> Value | None:
    if len(args) not in (4, 6, 7):
        return None
    storage, offset, shape, stride = args[:4]
    if not isinstance(storage, Storage) or not _plain_extras(args[4:]):
        return None
    return _strided(storage, storage.dtype, offset, shape, stride)


def _tensor_v3(args: tuple[Value, ...]) -> Value | None:
    if len(args) not in (7, 8):
        return None
    storage, offset, shape, stride = args[:4]
    kind = args[6]
    if (
        not isinstance(storage, Storage)
        or not _plain_extras((*args[4:6], *args[7:]))
        or not isinstance(kind, Global)
    ):
        return None
    dtype = TORCH_DTYPES.get(kind.name) if kind.allowed and kind.module == "torch" else None
    return None if dtype is None else _strided(storage, dtype, offset, shape, stride)


def _strided(storage: Storage, dtype: str, offset: Value, shape: Value, stride: Value) -> Value | None:
    if isinstance(shape, Call) and shape.what == "size":
        shape = shape.args
    if not (_is_sizes((offset,)) and _is_sizes(shape) and _is_sizes(stride)):
        return None
    if len(shape) != len(stride) or len(shape) > 64:
        return None
    return Tensor(storage, dtype, offset, tuple(shape), tuple(stride))


def _plain_extras(extras: tuple[Value, ...]) -> bool:
    # requires_grad, backward_hooks, metadata: hooks are called in training, so there must be none.
    requires_grad, hooks, metadata = (*extras, None, None, None)[:3]
    return (
        (requires_grad is None or isinstance(requires_grad, bool))
        and (hooks is None or (isinstance(hooks, Dict) and not hooks.pairs and hooks.state is None))
        and (metadata is None or (isinstance(metadata, Dict) and not metadata.instance))
    )


def _parameter(args: tuple[Value, ...]) -> Value | None:
    if len(args) != 3 or not isinstance(args[0], Tensor) or not _plain_extras(args[1:]):
        return None
    return args[0]


def _size(args: tuple[Value, ...]) -> Value | None:
    if len(args) != 1 or not _is_sizes(args[0]):
        return None
    return Call("size", tuple(args[0]))


def _device(args: tuple[Value, ...]) -> Value | None:
    return Call("device", args) if 1 <= len(args) <= 2 and all(type(a) in (str, int) for a in args) else None


def _encode(args: tuple[Value, ...]) -> Value | None:
    # Other codecs can decompress or run for long; this one is how numpy stores bytes in protocol 2.
    if len(args) != 2 or not isinstance(args[0], str) or args[1] not in ("latin1", "latin-1"):
        return None
    try:
        return args[0].encode("latin-1")
    except UnicodeEncodeError:
        return None


def _set(args: tuple[Value, ...]) -> Value | None:
    if not args:
        return Call("set", ())
    return Call("set", tuple(args[0])) if len(args) == 1 and isinstance(args[0], list | tuple) else None


def _bytes(args: tuple[Value, ...]) -> Value | None:
    # Of a number it would be that many zeros: an allocation of any size.
    if not args:
        return b""
    return args[0] if len(args) == 1 and isinstance(args[0], bytes) else None


def _complex(args: tuple[Value, ...]) -> Value | None:
    return Call("complex", args) if len(args) == 2 and all(type(a) in (float, int) for a in args) else None


def _dtype(args: tuple[Value, ...]) -> Value | None:
    flags = args[1:]
    if not args or not isinstance(args[0], str) or not _DTYPE_CODE.fullmatch(args[0]):
        return None
    if len(flags) > 2 or not all(type(flag) in (int, bool) for flag in flags):
        return None
    order = args[0][0] if args[0][0] in "<>" else "|"
    return DtypeValue(args[0].lstrip("<>=|"), order)


def _dtype_state(dtype: DtypeValue, state: Value) -> bool:
    # (version, order, subdescriptor, names, fields, size, alignment, flags[, metadata]): no records.
    if not isinstance(state, tuple) or len(state) not in (8, 9) or state[1] not in ("<", ">", "|", "="):
        return False
    if any(part is not None for part in state[2:5]) or not all(
        type(part) is int for part in (state[0], *state[5:8])
    ):
        return False
    dtype.order = state[1]
    return len(state) == 8 or state[8] is None


def _reconstruct(args: tuple[Value, ...]) -> Value | None:
    if (
        len(args) != 3
        or not isinstance(args[0], Global)
        or (args[0].module, args[0].name) != ("numpy", "ndarray")
    ):
        return None
    return Array() if args[1] == (0,) and args[2] in (b"b", "b") else None


def _array_state(array: Array, state: Value) -> bool:
    if not isinstance(state, tuple) or len(state) not in (4, 5):
        return False
    shape, dtype, fortran, data = state[-4:]
    if isinstance(data, str):
        data = data.encode("latin-1", "replace")
    usual = _is_sizes(shape) and isinstance(dtype, DtypeValue) and type(fortran) in (bool, int)
    if not usual or not isinstance(data, bytes | list):
        return False
    array.shape, array.dtype, array.fortran, array.data = tuple(shape), dtype, bool(fortran), data
    return isinstance(data, bytes) is not dtype.code.startswith("O")


def _scalar(args: tuple[Value, ...]) -> Value | None:
    if len(args) != 2 or not isinstance(args[0], DtypeValue) or args[0].code.startswith("O"):
        return None
    data = args[1].encode("latin-1", "replace") if isinstance(args[1], str) else args[1]
    return Array(args[0], (), data) if isinstance(data, bytes) else None


def _frombuffer(args: tuple[Value, ...]) -> Value | None:
    if len(args) != 4 or not isinstance(args[0], bytes) or not isinstance(args[1], DtypeValue):
        return None
    if not _is_sizes(args[2]) or args[3] not in ("C", "F") or args[1].code.startswith("O"):
        return None
    return Array(args[1], tuple(args[2]), args[0], args[3] == "F")


_RULES: Mapping[str, Callable[[tuple[Value, ...]], Value | None]] = MappingProxyType(
    {
        "ordered_dict": _ordered_dict,
        "parameter_dict": _parameter_dict,
        "tensor": _tensor,
        "tensor_v3": _tensor_v3,
    }
    | {"parameter": _parameter, "size": _size, "device": _device, "encode": _encode, "set": _set}
    | {"complex": _complex, "bytes": _bytes, "dtype": _dtype, "reconstruct": _reconstruct, "scalar": _scalar}
    | {"frombuffer": _frombuffer}
)
