"""What an attack on marked pictures is: a function of pictures, a strength and one seed a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from auditor.errors import UsageError

__all__ = ["Effect", "Removal", "drawn", "rows"]

Effect = Callable[[Tensor, float, Sequence[int]], Tensor]
"""(pictures float32 (B, 3, H, W) in [0, 1], strength, B seeds) to pictures of the same kind, of any size."""


@dataclass(frozen=True)
class Removal:
    """An attack.

    Attributes:
        id: its name.
        goal: what it does, in one line.
        unit: what strength is a number of.
        grid: strengths from mild to harsh, those of the literature where there are any.
        least: smallest strength allowed.
        most: largest strength allowed.
        refs: sources of the technique or of its strengths.
        effect: what it does to pictures. Each row depends on its own picture and seed only.
        moves: whether latents are no longer where they were, so that they must be registered first.
    """

    id: str
    goal: str
    unit: str
    grid: tuple[float, ...]
    least: float
    most: float
    refs: tuple[str, ...]
    effect: Effect
    moves: bool = False

    def apply(self, images: Tensor, strength: float, seeds: Sequence[int]) -> Tensor:
        """Attacks pictures.

        Args:
            images: (B, 3, H, W), uint8, or floating in [-1, 1].
            strength: in ``unit``.
            seeds: B seeds; the same picture, strength and seed give the same result in any batch.

        Returns:
            Of the type that was given; of another size where the attack crops.

        Raises:
            UsageError: pictures of another kind, another number of seeds, or a strength out of range.
        """
        if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
            raise UsageError(f"{self.id} takes pictures of the shape (B, 3, H, W), not {tuple(images.shape)}")
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise UsageError(f"{self.id} takes pictures of bytes or of floats in [-1, 1], not {images.dtype}")
        if len(seeds) != len(images):
            raise UsageError(
                f"{self.id} takes one seed a picture: {len(images)} pictures, {len(seeds)} seeds"
            )
        if not self.least <= strength <= self.most:
            allowed = f"{self.least:g} to {self.most:g} ({self.unit})"
            raise UsageError(f"a strength of {strength:g} is out of range for {self.id}: {allowed}")
        whole = images.dtype == torch.uint8
        unit = images.float() / 255 if whole else (images.float() + 1) / 2
        attacked = self.effect(unit.clamp(0, 1), strength, seeds).clamp(0, 1)
        return (attacked * 255).round().byte() if whole else (attacked * 2 - 1).to(images.dtype)


def drawn(seed: int, shape: Sequence[int]) -> Tensor:
    """Standard normal values of one picture, float32, made on the CPU whatever the device."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))


def rows(effect: Callable[[Tensor, float, int], Tensor]) -> Effect:
    """An effect on each picture (3, H, W) by itself."""

    def whole(images: Tensor, strength: float, seeds: Sequence[int]) -> Tensor:
        return torch.stack([effect(image, strength, seed) for image, seed in zip(images, seeds, strict=True)])

    return whole
