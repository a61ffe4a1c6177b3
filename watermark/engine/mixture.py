"""Evidence for a key whose signs carry unknown bits: the likelihood ratio, averaged over every word.

Group j of the values ``w`` carries one bit b_j, so that its signs are ``b_j s_i`` with ``s`` fixed by the key. For a
tilt ``l``, ``prod_i exp(l b_j s_i w_i) / cosh(l w_i)`` has mean 1 over fair signs whatever ``w`` and ``b`` are, and so
has its average over both bits, ``cosh(l p_j) / prod_i cosh(l w_i)`` with ``p_j = sum_i s_i w_i``. The product over
groups, averaged over a few tilts fixed beforehand, is an e-value: one over it is a p-value (by Markov's inequality; V.
Vovk and R. Wang, Annals of Statistics 49, 2021), with nothing to pay for the number of words, and no vote whose ties
could favour a bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from watermark.detection import Method
from watermark.engine.sums import DRAWS
from watermark.tails import random_signs, rank_p, settle

__all__ = ["TILTS", "WordEvidence", "word_evidence"]

FloatArray = NDArray[np.float64]

TILTS = (0.04, 0.08, 0.16, 0.32, 0.64)
"""Means of sign times value that a mark may leave, with values of unit mean square."""


@dataclass(frozen=True)
class WordEvidence:
    """A test for a key whose word is unknown.

    Attributes:
        carrying: (bits, copies), signs times values.
        known: (m,), the same where no bit enters.
        log_e: log of the e-value.
    """

    carrying: FloatArray
    known: FloatArray
    log_e: float

    @property
    def soft(self) -> FloatArray:
        """Soft bits (bits,), positive for 1."""
        return np.asarray(self.carrying.sum(axis=1), dtype=np.float64)

    def settled(self, seed: int) -> tuple[float, Method]:
        """The p-value that holds for every level, and how it was found; ``seed`` is that of the random keys."""
        return settle(math.exp(-max(self.log_e, 0.0)), lambda: self._ranked(np.random.default_rng(seed)))

    def _ranked(self, rng: np.random.Generator) -> float:
        split, shape = self.carrying.size, self.carrying.shape
        values = np.concatenate([self.carrying.ravel(), self.known])
        offset, drawn = _offset(values), []
        for signs in random_signs(DRAWS, len(values), rng):
            agreeing = signs * values.astype(np.float32)
            groups = agreeing[:, :split].reshape(len(signs), *shape).sum(axis=2)
            drawn.append(_log_e(groups, agreeing[:, split:].sum(axis=1), offset))
        return rank_p(self.log_e, np.concatenate(drawn))


def word_evidence(carrying: FloatArray, known: FloatArray) -> WordEvidence:
    """The evidence; see :class:`WordEvidence` for the arguments."""
    offset = _offset(np.concatenate([carrying.ravel(), known]))
    found = _log_e(carrying.sum(axis=1)[None], np.array([known.sum()]), offset)
    return WordEvidence(carrying, known, float(found[0]))


def _log_e(soft: NDArray[np.floating], known: NDArray[np.floating], offset: FloatArray) -> FloatArray:
    """Log of the averaged e-value for B sets of sums: over each group (B, bits), over what carries no bit (B,)."""
    each = [_log_cosh(tilt * soft).sum(axis=1) + tilt * known for tilt in TILTS]
    logs = np.stack(each, axis=1) - offset
    top = logs.max(axis=1)
    return np.asarray(top + np.log(np.exp(logs - top[:, None]).mean(axis=1)), dtype=np.float64)


def _offset(values: FloatArray) -> FloatArray:
    return np.array([_log_cosh(tilt * values).sum() for tilt in TILTS])


def _log_cosh(x: NDArray[np.floating]) -> FloatArray:
    size = np.abs(np.asarray(x, dtype=np.float64))
    return np.asarray(size + np.log1p(np.exp(-2 * size)) - math.log(2))
