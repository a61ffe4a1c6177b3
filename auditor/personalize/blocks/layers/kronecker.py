"""``delta-W = A (x) B`` (DiffuseKronA, Marjit et al., WACV 2025, arXiv 2402.17412).

The product is the plain Kronecker product, the one that LyCORIS LoKr files mean. The forward pass of the authors'
released code flattens its result in the other order, which permutes the rows of the update: same singular values,
another model. An adapter trained here merges by ``kron(A, B)``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from auditor.errors import UsageError
from auditor.personalize.blocks.layers.adapted import Change

__all__ = ["KroneckerChange", "parameter_count"]


class KroneckerChange(Change):
    """A Kronecker change with ``left`` (a1, a2) and ``right`` (b1, b2), a1 b1 = out and a2 b2 = in.

    Args:
        out_features: rows of the weight.
        in_features: columns of the weight.
        a1: rows of the left factor; has to divide ``out_features``.
        a2: its columns; has to divide ``in_features``.
        generator: draws the left factor, with standard deviation 1 / a1; the right one starts at zero.

    Raises:
        UsageError: a factor does not divide its side.
    """

    def __init__(self, out_features: int, in_features: int, a1: int, a2: int, generator: torch.Generator) -> None:
        super().__init__()
        if out_features % a1 or in_features % a2:
            raise UsageError(f"factors {a1} x {a2} do not divide a layer of {out_features} x {in_features}")
        self.left = nn.Parameter(torch.randn(a1, a2, generator=generator) / a1)
        self.right = nn.Parameter(torch.zeros(out_features // a1, in_features // a2))

    def forward(self, x: Tensor) -> Tensor:
        """``(A (x) B) x`` as ``A X B^T`` with x folded into (a2, b2): the product is never formed."""
        folded = x.reshape(*x.shape[:-1], self.left.shape[1], self.right.shape[1])
        return (self.left @ (folded @ self.right.T)).flatten(-2)

    def delta(self) -> Tensor:
        """The Kronecker product, (out, in)."""
        return torch.kron(self.left, self.right)


def parameter_count(out_features: int, in_features: int, a1: int, a2: int) -> int:
    """``a1 a2 + out in / (a1 a2)``."""
    return a1 * a2 + out_features * in_features // (a1 * a2)
