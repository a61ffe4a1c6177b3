"""A keyed tail-biting convolutional code of very low rate: bits to many signs, and back from soft values.

Bit t enters a register of the last nine bits, the word being a ring, and every sign of stage t is the parity of the
register under a mask. Masks are secret, differ within a stage and all contain the newest bit. No two signs of a word of
17 bits or more are then the same function of the bits, so that over random words any two signs are independent: means
and covariances of many words give nothing away, unlike those of a code that repeats its bits.

Decoding finds the best word of all: Viterbi's algorithm from each state of the register at once, round the ring and
back to where it began (H. Ma and J. Wolf, IEEE Transactions on Communications 34, 1986). The metric of all registers at
one stage is one fast Walsh-Hadamard transform.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from watermark.keys import Stream

__all__ = ["MOST_SIGNS", "Trellis"]

FloatArray = NDArray[np.float64]
BitArray = NDArray[np.uint8]

_MEMORY = 8
_STATES = 1 << _MEMORY
MOST_SIGNS = _STATES
"""Masks that contain the newest bit: the most signs that one bit can have."""


@dataclass(frozen=True)
class Trellis:
    """One code.

    Attributes:
        masks: int64 (bits, signs a bit), odd, below 512.
    """

    masks: NDArray[np.int64]

    @classmethod
    def keyed(cls, bits: int, signs: int, stream: Stream) -> Trellis:
        """A code drawn from a stream.

        Args:
            bits: of a word, 9 at least.
            signs: of a bit, at most :data:`MOST_SIGNS`.
            stream: the secret.

        Raises:
            ValueError: sizes out of range.
        """
        if bits <= _MEMORY or not 1 <= signs <= MOST_SIGNS:
            raise ValueError(f"no code has {bits} bits with {signs} signs each")
        rows = [stream.permutation(MOST_SIGNS)[:signs] for _ in range(bits)]
        return cls(2 * np.stack(rows).astype(np.int64) + 1)

    def encode(self, word: BitArray) -> FloatArray:
        """Signs (bits * signs a bit,) of a word (bits,)."""
        register = sum(np.roll(word, back).astype(np.int64) << back for back in range(_MEMORY + 1))
        return 1 - 2 * _parity(self.masks & np.asarray(register)[:, None]).astype(np.float64).ravel()

    def decode(self, soft: FloatArray) -> BitArray:
        """The word (bits,) whose signs agree best with soft values: of largest ``sum sign_i soft_i``."""
        metrics = self._metrics(soft.reshape(self.masks.shape))
        start = int(_from_every_state(metrics).argmax())
        best, older = np.full(_STATES, -np.inf), np.empty((len(metrics), _STATES), dtype=bool)
        best[start] = 0
        for t, metric in enumerate(metrics):
            reached = _reached(best, metric)
            older[t] = reached[1] > reached[0]
            best = reached.max(axis=0)
        word, state = np.empty(len(metrics), dtype=np.uint8), start
        for t in range(len(metrics) - 1, -1, -1):
            word[t] = state & 1
            state = (state | int(older[t, state]) << _MEMORY) >> 1
        return word

    def _metrics(self, soft: FloatArray) -> FloatArray:
        """Agreement of every register with the values of every stage, (bits, 512)."""
        bits = len(soft)
        at_mask = np.zeros((bits, 2 * _STATES))
        np.add.at(at_mask, (np.arange(bits)[:, None], self.masks), soft)
        return _walsh_hadamard(at_mask)


def _from_every_state(metrics: FloatArray) -> FloatArray:
    """The best metric round the ring (states,) from each state back to itself."""
    best = np.where(np.eye(_STATES, dtype=bool), np.float32(0), np.float32(-np.inf))
    for metric in metrics.astype(np.float32):
        best = _reached(best, metric).max(axis=-2)
    return np.asarray(best.diagonal(), dtype=np.float64)


def _reached(best: NDArray[Any], metric: NDArray[Any]) -> NDArray[Any]:
    """Metrics (..., 2, states) of reaching each state from the two that differ in the bit that leaves the register."""
    halves = best.reshape(*best.shape[:-1], 2, _STATES // 2)
    return np.asarray(np.repeat(halves, 2, axis=-1) + metric.reshape(2, _STATES))


def _walsh_hadamard(rows: FloatArray) -> FloatArray:
    """``sum_m (-1)^<m, r> rows[:, m]`` for every r, (n, 2^k) to (n, 2^k)."""
    n, size = rows.shape
    out, half = rows, 1
    while half < size:
        pairs = out.reshape(n, -1, 2, half)
        out = np.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], axis=2)
        half *= 2
    return out.reshape(n, size)


def _parity(values: NDArray[np.int64]) -> NDArray[np.int64]:
    for shift in (8, 4, 2, 1):
        values = values ^ (values >> shift)
    return values & 1
