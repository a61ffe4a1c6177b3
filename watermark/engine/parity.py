"""Sparse parity checks with a generator: a linear code whose words look random to whoever does not know the checks.

The first bits of a word are random functions of the information, every further one is the sum of two earlier ones: a
check of weight three. (M. Christ and S. Gunn, "Pseudorandom Error-Correcting Codes", CRYPTO 2024, arXiv 2402.09370; S.
Gunn, X. Zhao and D. Song, ICLR 2025, arXiv 2410.07369.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from watermark.keys import Stream

__all__ = ["ParityCode"]

FloatArray = NDArray[np.float64]
BitArray = NDArray[np.uint8]

_CLOSE_TO_ONE = 1 - 1e-9


@dataclass(frozen=True)
class ParityCode:
    """One code.

    Attributes:
        generator: (n, k) bits; a word is ``generator @ information`` over GF(2).
        checks: (r, 3) places whose bits add up to 0, each check with a place of its own in the last column.
    """

    generator: BitArray
    checks: NDArray[np.intp]

    @classmethod
    def keyed(cls, n: int, k: int, spare: int, stream: Stream) -> ParityCode:
        """A code drawn from a stream.

        Args:
            n: bits of a word.
            k: bits of information.
            spare: bits beyond ``k`` before the first check, so that few words give the checks away.
            stream: the secret.

        Raises:
            ValueError: no room for a check.
        """
        free = k + spare
        if free >= n or k < 2:
            raise ValueError(f"a code of {n} bits with {free} free ones has no checks")
        generator = np.empty((n, k), dtype=np.uint8)
        generator[:free] = stream.bits(free * k).reshape(free, k)
        earlier = np.empty((n - free, 2), dtype=np.intp)
        start = free
        while start < n:
            # Rows at one go refer to rows before all of them.
            stop = min(n, 2 * start)
            first = (stream.words(stop - start) % np.uint64(start)).astype(np.intp)
            step = (stream.words(stop - start) % np.uint64(start - 1)).astype(np.intp)
            second = (first + 1 + step) % start
            generator[start:stop] = generator[first] ^ generator[second]
            earlier[start - free : stop - free] = np.stack([first, second], axis=1)
            start = stop
        order = stream.permutation(n)
        checks = np.column_stack([earlier, np.arange(free, n)])
        shuffled = np.empty_like(generator)
        shuffled[order] = generator
        return cls(shuffled, order[checks])

    def encode(self, information: BitArray) -> BitArray:
        """The word (n,) of information (k,)."""
        return np.asarray((self.generator.astype(np.int64) @ information) & 1, dtype=np.uint8)

    def products(self, means: FloatArray) -> FloatArray:
        """What each check says (r,): the product of its three sign means, which a word makes positive on average."""
        return np.asarray(means[self.checks].prod(axis=1), dtype=np.float64)

    def propagate(self, means: FloatArray, rounds: int) -> FloatArray:
        """Sign means (n,) after sum-product belief propagation over the checks, as log-odds.

        Args:
            means: (n,), within -1 and 1: positive where a bit is rather 0.
            rounds: of messages in both directions.
        """
        own = 2 * np.arctanh(np.clip(means, -_CLOSE_TO_ONE, _CLOSE_TO_ONE))
        messages = np.zeros(self.checks.shape)
        total = own
        for _ in range(rounds):
            # To each check goes what the others and the values say; back comes the product of the other two.
            inward = np.tanh((total[self.checks] - messages) / 2)
            others = inward[:, [1, 2, 0]] * inward[:, [2, 0, 1]]
            messages = 2 * np.arctanh(np.clip(others, -_CLOSE_TO_ONE, _CLOSE_TO_ONE))
            total = own + np.bincount(self.checks.ravel(), messages.ravel(), minlength=len(own))
        return np.asarray(total, dtype=np.float64)

    def solve(self, log_odds: FloatArray) -> BitArray | None:
        """Information (k,) from the most reliable places that determine it; None where all places do not.

        Gaussian elimination over GF(2) with a row and its bit packed into one integer, rows in order of reliability.
        """
        k = self.generator.shape[1]
        packed = np.packbits(self.generator, axis=1)
        width = 8 * packed.shape[1]
        pivots: dict[int, int] = {}
        for place in np.argsort(-np.abs(log_odds), kind="stable"):
            row = int.from_bytes(packed[place].tobytes(), "big") << 1 | int(log_odds[place] < 0)
            while row > 1 and (top := row.bit_length() - 1) in pivots:
                row ^= pivots[top]
            if row > 1:
                pivots[row.bit_length() - 1] = row
                if len(pivots) == k:
                    return _substituted(pivots, width, k)
        return None


def _substituted(pivots: dict[int, int], width: int, k: int) -> BitArray:
    """Back substitution from the lowest pivot up: column c of the generator is bit ``width - c`` of a row."""
    solved = 0
    for top in sorted(pivots):
        row = pivots[top]
        value = (row & 1) ^ ((row & solved & ~1).bit_count() & 1)
        solved |= value << top
    return np.array([solved >> (width - column) & 1 for column in range(k)], dtype=np.uint8)
