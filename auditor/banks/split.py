"""Which part of a bank an adapter belongs to."""

from __future__ import annotations

from typing import Literal, get_args

__all__ = ["SPLITS", "Split", "split_of"]

Split = Literal["fit", "calibrate", "certify"]
SPLITS: tuple[Split, ...] = get_args(Split)

_CYCLE: tuple[Split, ...] = ("calibrate", "fit", "calibrate", "certify", "calibrate")


def split_of(index: int) -> Split:
    """The split of the zoo's ``index``-th adapter: of every five, three calibrate, one fits, one certifies.

    The rule looks at the index only, so that a zoo that grows never moves an adapter from one split to
    another, and nobody can choose a split after seeing a score. Recipes must not be laid out with a period
    of five.

    Args:
        index: position in the zoo, from 0.

    Raises:
        ValueError: a negative index.
    """
    if index < 0:
        raise ValueError(f"an adapter's index cannot be {index}.")
    return _CYCLE[index % len(_CYCLE)]
