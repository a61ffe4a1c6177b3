"""The only references that a pickle may make: tensors, arrays and plain containers.

A list of what is bad is always one name short, so everything that is not named here is refused. Being here
means "data only": each callable is moreover held to the shape of arguments that the libraries themselves
write.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["CALLABLES", "NUMPY_MODULES", "STORAGES", "TORCH_DTYPES", "is_allowed"]

STORAGES: Mapping[str, str] = MappingProxyType(
    {"DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16"}
    | {"LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8"}
    | {"ByteStorage": "U8", "BoolStorage": "BOOL", "ComplexFloatStorage": "C64"}
)
"""Typed torch storages and the dtype of their elements."""

TORCH_DTYPES: Mapping[str, str] = MappingProxyType(
    {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "complex64": "C64"}
    | {"int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL"}
    | {"uint16": "U16", "uint32": "U32", "uint64": "U64"}
    | {"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0"}
    | {"float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2fnuz": "F8_E5M2FNUZ"}
)
"""``torch`` dtypes and their safetensors names."""

NUMPY_MODULES = frozenset({"numpy.core.multiarray", "numpy._core.multiarray"})

# (module, name) -> the rule in calls.py that checks its arguments
CALLABLES: Mapping[tuple[str, str], str] = MappingProxyType(
    {("collections", "OrderedDict"): "ordered_dict"}
    | {("torch.nn.modules.container", "ParameterDict"): "parameter_dict"}
    | {("torch._utils", "_rebuild_tensor"): "tensor", ("torch._utils", "_rebuild_tensor_v2"): "tensor"}
    | {
        ("torch._utils", "_rebuild_tensor_v3"): "tensor_v3",
        ("torch._utils", "_rebuild_parameter"): "parameter",
    }
    | {("torch", "Size"): "size", ("torch", "device"): "device", ("_codecs", "encode"): "encode"}
    | {(module, "set"): "set" for module in ("builtins", "__builtin__")}
    | {(module, "frozenset"): "set" for module in ("builtins", "__builtin__")}
    | {(module, "complex"): "complex" for module in ("builtins", "__builtin__")}
    | {(module, "bytes"): "bytes" for module in ("builtins", "__builtin__")}
    | {(module, "bytearray"): "bytes" for module in ("builtins", "__builtin__")}
    | {("numpy", "dtype"): "dtype"}
    | {(module, "_reconstruct"): "reconstruct" for module in NUMPY_MODULES}
    | {(module, "scalar"): "scalar" for module in NUMPY_MODULES}
    | {(module, "_frombuffer"): "frombuffer" for module in ("numpy.core.numeric", "numpy._core.numeric")}
)

_VALUES = frozenset(
    {("torch", name) for name in STORAGES}
    | {("torch.storage", "UntypedStorage"), ("torch", "UntypedStorage"), ("numpy", "ndarray")}
    | {("torch", name) for name in TORCH_DTYPES}
)


def is_allowed(module: str, name: str) -> bool:
    """Whether a pickle may mention ``module.name`` at all, compared exactly and in full."""
    return (module, name) in CALLABLES or (module, name) in _VALUES
