"""A small transformer that makes a word's vectors for every stage of denoising out of one ordinary word's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["StageNetwork"]


class StageNetwork(nn.Module):
    """Two attention layers and a gated feed-forward layer that widens to all stages (ProSpect, arXiv 2305.16225).

    The last layer starts at zero and the ordinary word's vectors are added to what comes out, so that training starts
    at that word in every stage; in the authors' code it starts at random vectors.

    Args:
        width: d of the vectors.
        stages: S.
        generator: draws the weights.
        heads: of both attention layers.
        head_width: of each head.
        dropout: share of values dropped inside while training.
    """

    def __init__(
        self, width: int, stages: int, generator: torch.Generator, heads: int = 8, head_width: int = 64,
        dropout: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__()
        self._generator, self._dropout, self._stages = generator, dropout, stages
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.attentions = nn.ModuleList(_Attention(width, heads, head_width) for _ in range(2))
        self.widen = nn.Linear(width, 8 * width)
        self.out = nn.Linear(4 * width, stages * width)
        with torch.no_grad():
            for parameter in self.parameters():
                if parameter.ndim == 2:
                    parameter.normal_(0, parameter.shape[1] ** -0.5, generator=generator)
            self.out.weight.zero_()
            for layer in (self.widen, self.out):
                layer.bias.zero_()

    def forward(self, vectors: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """An ordinary word's vectors (n, d) to (S, n, d); dropout only with a generator, on the CPU."""
        x = vectors
        for norm, attention in zip(list(self.norms)[:2], self.attentions, strict=True):
            x = x + self._drop(attention(norm(x)), generator)
        value, gate = self.widen(self.norms[2](x)).chunk(2, -1)
        made: Tensor = self.out(self._drop(value * nn.functional.gelu(gate), generator))
        return vectors + made.reshape(len(vectors), self._stages, -1).transpose(0, 1)

    def _drop(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        if generator is None:
            return x
        kept = torch.rand(x.shape, generator=generator).to(x.device) >= self._dropout
        return x * kept / (1 - self._dropout)


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self._heads = heads
        self.mix = nn.Linear(width, 3 * heads * head_width, bias=False)
        self.out = nn.Linear(heads * head_width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.mix(x).reshape(len(x), 3, self._heads, -1).permute(1, 2, 0, 3)
        seen = nn.functional.scaled_dot_product_attention(*parts)
        out: Tensor = self.out(seen.transpose(0, 1).flatten(1))
        return out
