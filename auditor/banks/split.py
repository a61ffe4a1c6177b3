"""Which part of a bank an adapter belongs to."""

from __future__ import annotations

from typing import Literal, get_args

from auditor.stats import bank_size_for

__all__ = ["SPLITS", "SPLIT_PERIOD", "Split", "adapters_needed", "split_of", "split_of_recipe"]

Split = Literal["fit", "calibrate", "certify"]
SPLITS: tuple[Split, ...] = get_args(Split)

_CYCLE: tuple[Split, ...] = ("calibrate", "fit", "calibrate", "certify", "calibrate")

SPLIT_PERIOD = len(_CYCLE)
"""Of as many adapters in a row, :func:`split_of` lets one fit."""


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


def split_of_recipe(digest: str) -> Split:
    """The split of a zoo's member by the hash of its recipe: of every eight, one fits, three calibrate, four certify.

    A recipe cannot be chosen for its split without being another recipe, and it has the same one in every zoo.

    Args:
        digest: a hash of the recipe, in hex, of eight digits or more.

    Raises:
        ValueError: no such hash.
    """
    if len(digest) < 8:
        raise ValueError(f"{digest!r} is no hash of a recipe.")
    eighth = int(digest[:8], 16) * 8 >> 32
    return "fit" if eighth == 0 else "calibrate" if eighth < 4 else "certify"


def adapters_needed(alpha: float) -> int:
    """How many clean adapters, split by :func:`split_of`, a bank for a level takes: its p-values have to reach it."""
    return -(-bank_size_for(alpha) * len(_CYCLE) // _CYCLE.count("calibrate"))
