"""Counting NaN and infinity by bit pattern, and reading the narrow float formats exactly.

The patterns: IEEE 754 for F16, F32 and F64; bfloat16 as the upper half of F32; E5M2 and E4M3 as in "FP8
Formats for Deep Learning" (Micikevicius et al., 2022); the FNUZ variants have one NaN, at minus zero, and no
infinity; E8M0 (OCP Microscaling Formats, 2023) is a power of two with NaN at 255.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["can_be_nonfinite", "count_nonfinite", "float8_table"]

# dtype -> (numpy code of the word, mask without the sign, pattern of infinity); above infinity lies NaN.
_IEEE = {
    "F16": ("<u2", 0x7FFF, 0x7C00),
    "BF16": ("<u2", 0x7FFF, 0x7F80),
    "F32": ("<u4", 0x7FFFFFFF, 0x7F800000),
    "C64": ("<u4", 0x7FFFFFFF, 0x7F800000),
    "F64": ("<u8", 0x7FFFFFFFFFFFFFFF, 0x7FF0000000000000),
    "F8_E5M2": ("u1", 0x7F, 0x7C),
}
# dtype -> (mask, the only NaN pattern); these formats have no infinity.
_ONE_NAN = {
    "F8_E4M3": (0x7F, 0x7F),
    "F8_E4M3FNUZ": (0xFF, 0x80),
    "F8_E5M2FNUZ": (0xFF, 0x80),
    "F8_E8M0": (0xFF, 0xFF),
}

# dtype -> (exponent bits, mantissa bits, bias)
_FLOAT8 = {
    "F8_E4M3": (4, 3, 7),
    "F8_E5M2": (5, 2, 15),
    "F8_E4M3FNUZ": (4, 3, 8),
    "F8_E5M2FNUZ": (5, 2, 16),
}


def can_be_nonfinite(dtype: str) -> bool:
    """Whether a safetensors dtype has a NaN or an infinity at all."""
    return dtype in _IEEE or dtype in _ONE_NAN


def count_nonfinite(dtype: str, data: bytes | bytearray | memoryview) -> tuple[int, int]:
    """Counts NaN and infinite values (for C64: components) in raw little-endian data.

    Args:
        dtype: a safetensors dtype.
        data: a whole number of elements.

    Returns:
        ``(nan, inf)``.
    """
    import numpy as np

    if dtype in _ONE_NAN:
        mask, pattern = _ONE_NAN[dtype]
        octets = np.frombuffer(data, np.uint8)
        return int(np.count_nonzero((octets & mask) == pattern)), 0
    if dtype not in _IEEE or not len(data):
        return 0, 0
    code, mask, infinity = _IEEE[dtype]
    words = np.frombuffer(data, code)
    magnitude = words & words.dtype.type(mask)
    # One maximum settles the usual case; counting costs two more passes.
    if int(magnitude.max()) < infinity:
        return 0, 0
    return int(np.count_nonzero(magnitude > infinity)), int(np.count_nonzero(magnitude == infinity))


@cache
def float8_table(dtype: str) -> NDArray[np.float32]:
    """The float32 value of each of the 256 codes of an 8-bit float format, shape (256,); all are exact."""
    import numpy as np

    values = [_power(code) if dtype == "F8_E8M0" else _float8(dtype, code) for code in range(256)]
    table: NDArray[Any] = np.array(values, np.float32)
    table.setflags(write=False)
    return table


def _power(code: int) -> float:
    return math.nan if code == 255 else math.ldexp(1.0, code - 127)


def _float8(dtype: str, code: int) -> float:
    exponent_bits, mantissa_bits, bias = _FLOAT8[dtype]
    sign = -1.0 if code & 0x80 else 1.0
    exponent = (code >> mantissa_bits) & ((1 << exponent_bits) - 1)
    mantissa = code & ((1 << mantissa_bits) - 1)
    if dtype in _ONE_NAN:
        mask, pattern = _ONE_NAN[dtype]
        if code & mask == pattern:
            return math.nan
    elif exponent == (1 << exponent_bits) - 1:
        return sign * math.inf if mantissa == 0 else math.nan
    if exponent == 0:
        return sign * math.ldexp(mantissa, 1 - bias - mantissa_bits)
    return sign * math.ldexp((1 << mantissa_bits) + mantissa, exponent - bias - mantissa_bits)
