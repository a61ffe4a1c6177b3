"""Input factors from a public random orthogonal matrix, frozen (Po et al., CVPR 2024, arXiv 2312.02432).

Everybody who knows the basis seed has the same matrix O (m, m) for a layer of m inputs. With a registry that gives
every concept a slot, concepts take disjoint columns and their updates are orthogonal exactly. Without one each
draws r columns at random: two concepts then share ``r^2 / m`` columns on average, none with probability C(m - r, r)
/ C(m, r).
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

from auditor.errors import UsageError

__all__ = ["columns_of_draw", "columns_of_slot", "shared_columns"]


def columns_of_slot(slot: int, rank: int, width: int) -> range:
    """The columns that a registry slot owns in every layer of ``width`` inputs.

    Raises:
        UsageError: the layer is too narrow for so many slots.
    """
    if not 0 <= slot < width // rank:
        raise UsageError(
            f"slot {slot} of rank {rank} does not fit a layer of {width} inputs, which has {width // rank} slots"
        )
    return range(slot * rank, (slot + 1) * rank)


def columns_of_draw(seed: int, path: str, rank: int, width: int) -> list[int]:
    """``rank`` distinct columns drawn by one concept on its own, other ones in every layer.

    Raises:
        UsageError: the layer has fewer inputs than that.
    """
    if rank > width:
        raise UsageError(f"rank {rank} does not fit a layer of {width} inputs")
    return sorted(int(c) for c in np.random.default_rng(_seeds(seed, path)).choice(width, rank, replace=False))


def shared_columns(basis_seed: int, path: str, width: int, columns: range | list[int]) -> Tensor:
    """Columns of the public matrix of a layer, as rows: float32 (len(columns), width), orthonormal to rounding.

    Columns are made one after the other, so that the first ones cost as much as they are many; signs are fixed, which
    makes the matrix Haar-distributed and the same for everybody.
    """
    last = max(columns) + 1
    gaussian = np.random.default_rng(_seeds(basis_seed, path)).standard_normal((last, width)).T
    basis, triangle = np.linalg.qr(gaussian)
    basis = basis * np.sign(np.diag(triangle))
    return torch.from_numpy(basis.T[list(columns)].astype(np.float32))


def _seeds(seed: int, path: str) -> list[int]:
    return [seed, *np.frombuffer(hashlib.sha256(path.encode()).digest()[:16], np.uint32).tolist()]
