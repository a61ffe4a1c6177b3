"""The smallest QR code with the strongest correction: 21x21 modules, version 1, level H, seven bytes (ISO/IEC 18004).

Of its 441 modules, 208 depend on what it says: 26 bytes, of which 9 are data and 17 checks. The others are the same in
every such code. A mark carries the 208 alone; the others are drawn around them when somebody wants to look.

Check bytes are those of a Reed-Solomon code over GF(256) modulo x^8 + x^4 + x^3 + x^2 + 1, whose generator has the
roots 2^0 to 2^16.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["CAPACITY", "MODULES", "SIDE", "draw", "modules_of", "places", "read_soft", "readable"]

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]

SIDE = 21
CAPACITY = 7
"""Bytes that one code says."""
MODULES = 208
"""Modules that depend on what it says."""
_CHECKS = 17
_CORRECTED = 8
_MASK = 0
_LEVEL_H = 0b10
_FINDER = np.pad(np.pad(np.ones((3, 3), dtype=bool), 1), 1, constant_values=True)
_POLYNOMIAL = 0x11D


def modules_of(text: bytes) -> BoolArray:
    """The modules (208,) that say ``text``, dark ones True, in the order in which a reader visits them.

    Args:
        text: ``CAPACITY`` bytes.

    Raises:
        ValueError: another length.
    """
    if len(text) != CAPACITY:
        raise ValueError(f"this code says {CAPACITY} bytes, not {len(text)}")
    bits = _bits(_with_checks(_data(text)))
    return np.asarray(bits ^ _mask_bits())


def draw(modules: BoolArray) -> BoolArray:
    """The whole code (21, 21), dark modules True, from the 208 that it depends on. A reader wants a light margin."""
    out = _fixed().copy()
    out[places()] = modules
    return out


def places() -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of the 208 modules in the whole code."""
    return _order()


def readable(modules: BoolArray, text: bytes) -> bool:
    """Whether any reader makes ``text`` of the modules (208,): at most eight of the 26 bytes are wrong."""
    wrong = np.packbits(modules ^ modules_of(text)) != 0
    return int(wrong.sum()) <= _CORRECTED


def read_soft(soft: FloatArray) -> bytes:
    """What the modules say, where it is known how sure each is: much further down than a reader of dark and light gets.

    The 56 surest modules that say independent things are taken as they look, then with any one or two of them turned
    over, and of all these codes the one is taken that agrees best with all modules (ordered statistics; M. Fossorier
    and S. Lin, IEEE Transactions on Information Theory 41, 1995).

    Args:
        soft: (208,), positive for dark, larger for surer.
    """
    rows, base = _generator()
    order = np.argsort(-np.abs(soft), kind="stable")
    reduced, texts, pivots = _eliminated(rows[:, order])
    seen, fixed, sureness = (soft > 0)[order], base[order], np.abs(soft)[order]
    start = np.bitwise_xor.reduce(reduced[(seen ^ fixed)[pivots]], axis=0, initial=False) ^ fixed
    # What agreement changes by where a module is turned over: less, where it was seen that way.
    change = np.where(start == seen, -sureness, sureness)
    flips = _flips()
    second = np.where((flips[:, 1] >= 0)[:, None], reduced[flips[:, 1]], False)
    turned = (reduced[flips[:, 0]] ^ second) @ change
    best, chosen = int(turned.argmax()), (seen ^ fixed)[pivots]
    if turned[best] > 0:
        for flip in flips[best][flips[best] >= 0]:
            chosen[flip] ^= True
    return np.packbits(np.bitwise_xor.reduce(texts[chosen], axis=0, initial=False)).tobytes()


@cache
def _generator() -> tuple[BoolArray, BoolArray]:
    """What each bit of the text turns over (56, 208), and the modules (208,) of a text of zeros."""
    base = modules_of(bytes(CAPACITY))
    units = [(1 << shift).to_bytes(CAPACITY, "big") for shift in range(8 * CAPACITY - 1, -1, -1)]
    return np.stack([modules_of(unit) ^ base for unit in units]), base


def _eliminated(rows: BoolArray) -> tuple[BoolArray, BoolArray, NDArray[np.intp]]:
    """Rows with one pivot each, as far left as may be; the texts that give them; and the columns of the pivots."""
    count, width = rows.shape
    both = np.concatenate([rows, np.eye(count, dtype=bool)], axis=1)
    pivots: list[int] = []
    for column in range(width):
        done = len(pivots)
        below = np.flatnonzero(both[done:, column])
        if len(below):
            both[[done, done + below[0]]] = both[[done + below[0], done]]
            others = both[:, column].copy()
            others[done] = False
            both[others] ^= both[done]
            pivots.append(column)
        if len(pivots) == count:
            break
    return both[:, :width], both[:, width:], np.array(pivots)


@cache
def _flips() -> NDArray[np.intp]:
    """All pairs of pivots, and each alone with -1: (1596, 2)."""
    bits = 8 * CAPACITY
    pairs = np.stack(np.triu_indices(bits, 1), axis=1)
    return np.concatenate([np.stack([np.arange(bits), np.full(bits, -1)], axis=1), pairs])


def _data(text: bytes) -> bytes:
    """Nine bytes: byte mode (0100), length in eight bits, text, end (0000)."""
    whole = (0b0100 << 68) | (CAPACITY << 60) | (int.from_bytes(text, "big") << 4)
    return whole.to_bytes(9, "big")


def _with_checks(data: bytes) -> bytes:
    generator = [1]
    for power in range(_CHECKS):
        root = _powers()[power]
        generator = [
            _times(root, low) ^ high for low, high in zip([*generator, 0], [0, *generator], strict=True)
        ]
    rest = [*data, *bytes(_CHECKS)]
    for i in range(len(data)):
        lead = rest[i]
        for j, factor in enumerate(reversed(generator)):
            rest[i + j] ^= _times(lead, factor)
    return data + bytes(rest[len(data) :])


@cache
def _powers() -> list[int]:
    """2^0 to 2^254."""
    powers = [1]
    while len(powers) < 255:
        double = powers[-1] << 1
        powers.append(double ^ _POLYNOMIAL if double > 255 else double)
    return powers


def _times(one: int, two: int) -> int:
    if not one or not two:
        return 0
    powers = _powers()
    return powers[(powers.index(one) + powers.index(two)) % 255]


def _bits(data: bytes) -> BoolArray:
    return np.unpackbits(np.frombuffer(data, dtype=np.uint8)).astype(bool)


@cache
def _order() -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of the 208 modules: up and down in pairs of columns, from the right, around what is fixed."""
    taken = _reserved()
    places = [place for place in _zigzag() if not taken[place]]
    rows, columns = zip(*places, strict=True)
    return np.array(rows), np.array(columns)


def _zigzag() -> Iterator[tuple[int, int]]:
    upwards = True
    for right in (20, 18, 16, 14, 12, 10, 8, 5, 3, 1):
        for step in range(SIDE):
            row = SIDE - 1 - step if upwards else step
            yield from ((row, right), (row, right - 1))
        upwards = not upwards


@cache
def _mask_bits() -> BoolArray:
    """Where mask 0 turns a module over, in reading order. One mask will do: marks are made even by their key."""
    rows, columns = _order()
    return np.asarray((rows + columns) % 2 == 0)


@cache
def _reserved() -> BoolArray:
    taken = np.zeros((SIDE, SIDE), dtype=bool)
    taken[:9, :9] = taken[:9, -8:] = taken[-8:, :9] = True
    taken[6, :] = taken[:, 6] = True
    return taken


@cache
def _fixed() -> BoolArray:
    """Finders, timing, the dark module and the format, which names level H and the mask."""
    out = np.zeros((SIDE, SIDE), dtype=bool)
    out[6, 8:13:2] = out[8:13:2, 6] = True
    out[:7, :7] = out[:7, -7:] = out[-7:, :7] = _FINDER
    out[13, 8] = True
    bits = _format_bits()
    for i, bit in enumerate(bits):
        # Two copies: around the first finder, and along the other two.
        column, row = _format_places(i)
        out[8, column] = bit if i < 8 else out[8, column]
        if i >= 8:
            out[row, 8] = bit
        if i < 7:
            out[SIDE - 1 - i, 8] = bit
        else:
            out[8, SIDE - 15 + i] = bit
    return out


def _format_places(i: int) -> tuple[int, int]:
    """Column in row 8 for the first eight bits, row in column 8 for the others."""
    return (i if i < 6 else min(i + 1, 8)), (7 if i == 8 else 14 - i)


def _format_bits() -> list[bool]:
    """Fifteen bits, highest first: BCH(15, 5) of level and mask, under the standard's own mask."""
    value = _LEVEL_H << 3 | _MASK
    rest = value << 10
    for shift in range(4, -1, -1):
        if rest >> (shift + 10) & 1:
            rest ^= 0x537 << shift
    whole = (value << 10 | rest) ^ 0x5412
    return [bool(whole >> shift & 1) for shift in range(14, -1, -1)]
