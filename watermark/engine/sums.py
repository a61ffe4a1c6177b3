"""One p-value from how well values agree with signs, where it is not known how far the signs can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from watermark.detection import Method
from watermark.tails import certified, monte_carlo, random_signs, rank_p, saddle_point, settle

__all__ = ["DRAWS", "Agreement", "agreement"]

FloatArray = NDArray[np.float64]

DRAWS = 999
"""Random keys behind a p-value by rank."""


@dataclass(frozen=True)
class Agreement:
    """A tested sum of signs times values.

    Attributes:
        deviations: the largest sum over the prefixes, in standard deviations of its null distribution.
        bound: certified bound on the p-value.
        approximate: the p-value by saddle point.
        values: (n,), signs times values.
        ends: lengths of the prefixes.
    """

    deviations: float
    bound: float
    approximate: float
    values: FloatArray
    ends: tuple[int, ...]

    def settled(self, seed: int) -> tuple[float, Method]:
        """The p-value that holds for every level, and how it was found; ``seed`` is that of the random keys."""
        return settle(self.bound, lambda: self._ranked(np.random.default_rng(seed)))

    def _ranked(self, rng: np.random.Generator) -> float:
        if len(self.ends) == 1:
            return monte_carlo(float(self.values.sum()), self.values, DRAWS, rng)
        prefixes = _prefixes(self.values, self.ends).astype(np.float32)
        drawn = [(signs @ prefixes).max(axis=1) for signs in random_signs(DRAWS, len(self.values), rng)]
        return rank_p(self.deviations, np.concatenate(drawn).astype(np.float64))


def agreement(values: FloatArray, ends: Sequence[int] = ()) -> Agreement:
    """Tests whether values agree with a key's signs, over one prefix of them or the best of several.

    Under the null the signs are fair whatever the values. Several prefixes are for signs that were read with the help
    of a guess: the first are known to be the key's if the key is right, further ones only if the guess is as well.

    Args:
        values: (n,), sign times value of each coordinate.
        ends: lengths of the prefixes to try, rising; everything if empty.
    """
    stops = tuple(ends) or (len(values),)
    sums, sizes = _sums(values, stops), _sizes(values, stops)
    deviations = max((t / size for t, size in zip(sums, sizes, strict=True) if size > 0), default=0.0)
    tails = [
        (certified(deviations * size, values[:stop]), saddle_point(deviations * size, values[:stop]))
        for stop, size in zip(stops, sizes, strict=True)
    ]
    bound, approximate = (min(1.0, sum(each)) for each in zip(*tails, strict=True))
    return Agreement(deviations, bound, approximate, values, stops)


def _sums(values: FloatArray, ends: Sequence[int]) -> list[float]:
    return [float(values[:end].sum()) for end in ends]


def _sizes(values: FloatArray, ends: Sequence[int]) -> list[float]:
    return [float(np.sqrt(np.square(values[:end]).sum())) for end in ends]


def _prefixes(values: FloatArray, ends: Sequence[int]) -> FloatArray:
    """Columns of standardised prefixes (n, E): signs times this are their sums in standard deviations."""
    columns = np.stack([np.where(np.arange(len(values)) < end, values, 0.0) for end in ends], axis=1)
    sizes = np.linalg.norm(columns, axis=0)
    return np.asarray(columns / np.where(sizes > 0, sizes, 1.0))
