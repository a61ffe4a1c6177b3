"""Where a patch lies in its picture, told to a UNet: a grid of sines, cropped, scaled, added after ``conv_in``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from auditor.pipeline.components import Components

__all__ = ["Box", "draw_box", "positions_added", "sine_grid"]

_SIDE = 128


@dataclass(frozen=True)
class Box:
    """A part of a picture: its edges as shares of the whole."""

    top: float = 0.0
    left: float = 0.0
    bottom: float = 1.0
    right: float = 1.0

    def cut(self, images: Tensor, size: Sequence[int], antialias: bool = True) -> Tensor:
        """The part of (B, C, H, W), scaled to (B, C, *size); at least a pixel of it."""
        height, width = images.shape[-2:]
        top, left = int(self.top * height), int(self.left * width)
        bottom, right = max(top + 1, round(self.bottom * height)), max(left + 1, round(self.right * width))
        part = images[..., top:bottom, left:right]
        if part.shape[-2:] == tuple(size):
            return part
        return nn.functional.interpolate(
            part, tuple(size), mode="bilinear", align_corners=False, antialias=antialias
        )


def draw_box(rng: np.random.Generator, low: float = 0.1) -> Box:
    """A square patch whose side is uniform in [low, 1], anywhere in the picture."""
    side = float(rng.uniform(low, 1.0))
    top, left = (float(v) for v in rng.uniform(0.0, 1.0 - side, 2))
    return Box(top, left, top + side, left + side)


@lru_cache(maxsize=4)
def sine_grid(channels: int, side: int = _SIDE) -> Tensor:
    """Sines and cosines of column (first half of the channels) and row: (1, channels, side, side) in [-1, 1].

    Wavelengths run geometrically from 2 pi to 2 pi 10^4; positions count from one (SINE, arXiv 2212.04489). Kept
    from call to call: not to be written to.
    """
    quarter = channels // 4
    rates = torch.exp(torch.arange(quarter) * -(np.log(1e4) / max(1, quarter - 1)))
    angles = torch.arange(1, side + 1)[:, None] * rates[None]
    waves = torch.cat([angles.sin(), angles.cos()], 1).T.float()
    columns, rows = waves[:, None, :].expand(-1, side, -1), waves[:, :, None].expand(-1, -1, side)
    grid = torch.cat([columns, rows])
    # What does not divide by four gets no position.
    return nn.functional.pad(grid, (0, 0, 0, 0, 0, channels - len(grid)))[None]


@contextmanager
def positions_added(base: Components, boxes: Sequence[Box]) -> Iterator[None]:
    """Inside the block the UNet is told where each row's patch lies.

    Args:
        base: whose UNet, as it stands, is told.
        boxes: one a row, or one for all rows.
    """
    conv = base.modules["unet"].get_submodule("conv_in")
    grid = sine_grid(int(conv.out_channels)).to(base.device)  # type: ignore[arg-type]

    def add(_: nn.Module, __: tuple[Tensor, ...], out: Tensor) -> Tensor:
        told = torch.cat([box.cut(grid, out.shape[-2:], antialias=False) for box in boxes])
        return out + told.to(out.dtype)

    handle = conv.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()
