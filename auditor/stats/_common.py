"""Types, the error and the argument checks that every file of this folder shares."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from auditor.errors import AuditorError

FloatArray: TypeAlias = NDArray[np.float64]
IntArray: TypeAlias = NDArray[np.int64]
BoolArray: TypeAlias = NDArray[np.bool_]
Alternative: TypeAlias = Literal["two-sided", "greater", "less"]
Side: TypeAlias = Literal["two", "lower", "upper"]

BATCH_VALUES = 2_000_000
"""Numbers held at once by a resampling loop (16 MB as float64)."""

ROUNDING = 1e-10
"""Relative slack within which a resampled statistic counts as tied with the observed one."""


class StatisticsError(AuditorError, ValueError):
    """A statistic was asked for on data that cannot carry it (too few rows, NaN, impossible counts)."""


@dataclass(frozen=True, slots=True)
class SignificanceResult:
    """Outcome of one hypothesis test.

    Attributes:
        statistic: Value of the test statistic, in its own unit (see the function that made it).
        p_value: In (0, 1].
        n: Independent units that carried information.
        method: Name of the test, with ``exact`` or ``monte-carlo`` where both exist.
        alternative: ``two-sided``, ``greater`` or ``less``.
    """

    statistic: float
    p_value: float
    n: int
    method: str
    alternative: Alternative


def require(condition: bool, message: str) -> None:
    """Raise :class:`StatisticsError` with ``message`` unless ``condition`` holds."""
    if not condition:
        raise StatisticsError(message)


def needed_rng(rng: np.random.Generator | None, purpose: str) -> np.random.Generator:
    """The generator, refused if absent: there is no hidden source of randomness to fall back on."""
    if rng is None:
        raise StatisticsError(f"{purpose} needs an explicit rng; pass numpy.random.default_rng(seed).")
    return rng


def check_fraction(value: float, name: str) -> None:
    """Refuse a level, alpha or power that is not strictly between 0 and 1."""
    require(0.0 < value < 1.0, f"{name} must lie strictly between 0 and 1, got {value!r}.")


def check_rate(value: float, name: str) -> None:
    """Refuse a rate outside [0, 1]."""
    require(0.0 <= value <= 1.0, f"{name} must lie in [0, 1], got {value!r}.")


def check_count(k: int, n: int) -> None:
    """Refuse counts that are not whole numbers with 0 <= k <= n."""
    whole = all(isinstance(c, int | np.integer) and not isinstance(c, bool) for c in (k, n))
    require(whole and 0 <= k <= n, f"counts must be whole numbers with 0 <= k <= n, got k={k!r}, n={n!r}.")


def check_alternative(alternative: str) -> None:
    """Refuse an alternative other than ``two-sided``, ``greater`` or ``less``."""
    require(
        alternative in ("two-sided", "greater", "less"),
        f"alternative must be 'two-sided', 'greater' or 'less', got {alternative!r}.",
    )


def as_sample(values: ArrayLike, name: str, minimum: int = 1, finite: bool = True) -> FloatArray:
    """One-dimensional float64 copy of ``values`` with at least ``minimum`` entries and no NaN.

    Raises:
        StatisticsError: Wrong number of dimensions, too few entries, NaN, or (with ``finite``) infinity.
    """
    sample = np.array(values, dtype=np.float64)
    require(sample.ndim == 1, f"{name} must be one-dimensional, got shape {sample.shape}.")
    require(sample.size >= minimum, f"{name} needs at least {minimum} values, got {sample.size}.")
    check_no_nan(sample, name, finite)
    return sample


def as_matrix(values: ArrayLike, name: str, minimum: int = 1) -> FloatArray:
    """Two-dimensional finite float64 copy of ``values`` with at least ``minimum`` rows and one column."""
    matrix = np.array(values, dtype=np.float64)
    require(matrix.ndim == 2, f"{name} must be two-dimensional, got shape {matrix.shape}.")
    require(
        matrix.shape[0] >= minimum and matrix.shape[1] >= 1,
        f"{name} needs at least {minimum} rows and one column, got shape {matrix.shape}.",
    )
    check_no_nan(matrix, name, finite=True)
    return matrix


def check_no_nan(values: FloatArray, name: str, finite: bool) -> None:
    """Refuse NaN, and infinity too if ``finite``: an undefined score must never read as an ordinary one."""
    valid = np.isfinite(values) if finite else ~np.isnan(values)
    kind = "NaN or infinite" if finite else "NaN"
    require(bool(valid.all()), f"{name} holds {kind} values; find out why before testing them.")


def batch_length(values_per_item: int) -> int:
    """How many resamples of ``values_per_item`` numbers fit into one batch (at least one)."""
    return max(1, BATCH_VALUES // max(1, values_per_item))


def tie_slack(observed: float) -> float:
    """Absolute tolerance under which a resampled statistic is a tie with ``observed``."""
    return ROUNDING * max(1.0, abs(observed)) if math.isfinite(observed) else 0.0


def as_extreme(resampled: FloatArray, observed: float, alternative: Alternative, slack: float) -> int:
    """How many resampled statistics are at least as extreme as the observed one, ties included."""
    if alternative == "two-sided":
        resampled, observed = np.abs(resampled), abs(observed)
    elif alternative == "less":
        resampled, observed = -resampled, -observed
    return int(np.count_nonzero(resampled >= observed - slack))
