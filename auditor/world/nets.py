"""The small networks that look at pictures of the world: the attribute judge and the identity embedder."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from auditor.world.labels import HEADS

__all__ = ["IdentityNet", "Judge", "Trunk"]

_GRID = 4


class Trunk(nn.Module):
    """Images to features: pixels folded 2x2 into channels, then one residual stage per width.

    The last grid is flattened and not averaged: where something is tells a first object from a second one,
    and a wide mouth from a low one.
    """

    def __init__(self, widths: Sequence[int], features: int) -> None:
        super().__init__()
        stages: list[nn.Module] = [nn.PixelUnshuffle(2)]
        channels = 12
        for depth, width in enumerate(widths):
            stages.append(_Stage(channels, width, stride=1 if depth == 0 else 2))
            channels = width
        self.stages = nn.Sequential(*stages)
        self.project = nn.Linear(channels * _GRID * _GRID, features)

    def forward(self, images: Tensor) -> Tensor:
        """Float (N, 3, 64, 64) in [-1, 1] to (N, features)."""
        grid = F.adaptive_avg_pool2d(self.stages(images), _GRID)
        return F.relu(self.project(grid.flatten(1)))


class Judge(nn.Module):
    """One linear head per factor of :data:`auditor.world.labels.HEADS` on a shared trunk."""

    def __init__(self, widths: Sequence[int], features: int) -> None:
        super().__init__()
        self.sizes = [len(classes) for classes in HEADS.values()]
        self.trunk = Trunk(widths, features)
        self.heads = nn.Linear(features, sum(self.sizes))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits (N, classes) per head."""
        parts = self.heads(self.trunk(images)).split(self.sizes, dim=1)
        return dict(zip(HEADS, parts, strict=True))


class IdentityNet(nn.Module):
    """Pictures of a person to unit vectors whose cosine says whether two show the same one."""

    def __init__(self, widths: Sequence[int], features: int, embed_dim: int) -> None:
        super().__init__()
        self.trunk = Trunk(widths, features)
        self.embed = nn.Linear(features, embed_dim, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Float (N, 3, 64, 64) in [-1, 1] to unit vectors (N, embed_dim)."""
        return F.normalize(self.embed(self.trunk(images)), dim=-1)


class _Stage(nn.Module):
    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.enter_norm = nn.BatchNorm2d(width, momentum=0.02)
        self.inner = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.inner_norm = nn.BatchNorm2d(width, momentum=0.02)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.enter_norm(self.enter(x)))
        return F.relu(x + self.inner_norm(self.inner(x)))
