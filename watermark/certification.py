"""Does a scheme's p-value hold? Counted over keys drawn at random, on latents that make it hard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from auditor.contracts import JsonValue, Progress
from auditor.stats import clopper_pearson
from watermark.keys import NONCE_BYTES, MasterKey
from watermark.scheme import LatentScheme, Shape

__all__ = ["CONFIDENCE", "LEVELS", "Row", "null_p_values", "rows_of"]

LEVELS = (0.5, 0.1, 0.05, 0.01, 0.001)
CONFIDENCE = 0.999
"""Of the one-sided intervals that exceed a level where it does not hold."""


@dataclass(frozen=True)
class Row:
    """One level.

    Attributes:
        alpha: nominal.
        alarms: p-values at or below it.
        n: p-values in all.
        low: lower end of the rate's one-sided interval.
        high: upper end of the rate's one-sided interval.
    """

    alpha: float
    alarms: int
    n: int
    low: float
    high: float

    @property
    def holds(self) -> bool:
        """Whether the alarms are no more than the level allows."""
        return self.low <= self.alpha

    def document(self) -> dict[str, JsonValue]:
        """As JSON values."""
        return {
            "alpha": self.alpha,
            "alarms": self.alarms,
            "n": self.n,
            "low": self.low,
            "high": self.high,
            "holds": self.holds,
        }


def null_p_values(
    scheme: LatentScheme, shape: Shape, count: int, seed: int, progress: Progress | None = None
) -> NDArray[np.float64]:
    """P-values (count,) where the null holds: a new random key each time.

    The latents in turn are noise, a smooth field as pictures leave, all of one sign, and *marked with another key*.

    Args:
        scheme: any.
        shape: (C, h, w).
        count: how many keys.
        seed: of keys, nonces and latents.
        progress: told how far it is.
    """
    rng = np.random.default_rng(seed)
    latents = _nulls(scheme, shape, rng)
    found = []
    for i in range(count):
        key = MasterKey(rng.bytes(32))
        nonces = () if scheme.capacity(shape).nonce_bits else (rng.bytes(NONCE_BYTES),)
        found.append(scheme.detect(next(latents), key, nonces=nonces, seed=i).p_value)
        if progress is not None:
            progress(i + 1, count)
    return np.array(found)


def rows_of(p_values: NDArray[np.float64], levels: Sequence[float] = LEVELS) -> list[Row]:
    """One row a level."""
    n, rows = len(p_values), []
    for alpha in levels:
        alarms = int((p_values <= alpha).sum())
        low = clopper_pearson(alarms, n, CONFIDENCE, "lower").low
        high = clopper_pearson(alarms, n, CONFIDENCE, "upper").high
        rows.append(Row(alpha, alarms, n, low, high))
    return rows


def _nulls(scheme: LatentScheme, shape: Shape, rng: np.random.Generator) -> Iterator[NDArray[np.float64]]:
    other = MasterKey(rng.bytes(32))
    while True:
        yield rng.normal(size=shape)
        yield np.cumsum(np.cumsum(rng.normal(size=shape), axis=1), axis=2)
        yield np.abs(rng.normal(size=shape))
        yield scheme.embed(other, rng.bytes(NONCE_BYTES), shape).astype(np.float64)
