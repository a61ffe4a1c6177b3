"""Tests of marks that are modules under a secret mask: what was read is fixed, and the key is what is random.

A key turns every module over or leaves it, by a fair coin. What a network reads from a picture does not hang on the
key, so that under the null the agreement of what was read with what the key would show is a sum of fair signs, whatever
network and picture are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from watermark.detection import Method
from watermark.engine import qr
from watermark.engine.sums import Agreement, agreement

__all__ = ["Tested", "fixed_modules", "judged_code", "judged_signs", "modules_at"]

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_READ = 0.01
"""Share of the level of the arm that reads the code: its p-values are tiny or nothing, whatever it pays."""
_WORDS = 2.0 ** (8 * qr.CAPACITY)


@dataclass(frozen=True)
class Tested:
    """What came of a test.

    Attributes:
        p_value: in (0, 1].
        method: how it was found.
        deviations: the tested sum, in standard deviations of its null distribution.
        bound: a certified bound on the p-value.
        word: bytes that the code says, as read; empty where there is no code.
    """

    p_value: float
    method: Method
    deviations: float
    bound: float
    word: bytes = b""


def judged_signs(agreeing: FloatArray, seed: int) -> Tested:
    """Tests signs that the key alone gives.

    Args:
        agreeing: (n,), sign of the key times what was read.
        seed: of the random keys of a p-value by rank.
    """
    found = agreement(agreeing)
    p, method = found.settled(seed)
    return Tested(p, method, found.deviations, found.bound)


def judged_code(agreeing: FloatArray, payload: bytes | None, seed: int) -> Tested:
    """Tests for a QR code of seven bytes under a mask.

    With the payload every module is known. Without it those are that look alike in all codes, finders and timing; a
    second arm takes the code that was read as well and pays for all 2**56 that there are. Both share the level.

    Args:
        agreeing: (21, 21), sign of the mask times darkness as it was read.
        payload: seven bytes, or None where they are not known.
        seed: of the random keys of a p-value by rank.
    """
    fixed, soft = _fixed_signs(agreeing), modules_at(agreeing)
    if payload is not None:
        found = judged_signs(np.concatenate([fixed, _signs(payload) * soft]), seed)
        return Tested(found.p_value, found.method, found.deviations, found.bound, payload)
    word = qr.read_soft(soft)
    known = agreement(fixed)
    whole: Agreement = agreement(np.concatenate([fixed, _signs(word) * soft]))
    any_code = min(1.0, _WORDS / _READ * whole.bound)
    p, method = known.settled(seed)
    p, bound = min(1.0, p / (1 - _READ)), min(1.0, known.bound / (1 - _READ), any_code)
    if any_code < p:
        p, method = any_code, Method.CERTIFIED
    return Tested(p, method, whole.deviations, bound, word)


def modules_at(grid: FloatArray) -> FloatArray:
    """The 208 modules of a grid (21, 21) that hang on what a code says, in reading order."""
    return grid[qr.places()]


def fixed_modules(grid: FloatArray) -> FloatArray:
    """The 233 others."""
    rest = np.ones(grid.shape, dtype=bool)
    rest[qr.places()] = False
    return grid[rest]


def _fixed_signs(agreeing: FloatArray) -> FloatArray:
    shown = np.where(qr.draw(np.zeros(qr.MODULES, dtype=bool)), 1.0, -1.0)
    return fixed_modules(agreeing * shown)


def _signs(word: bytes) -> FloatArray:
    return 2 * qr.modules_of(word).astype(np.float64) - 1
