"""Attacks that a gradient goes through, drawn anew for every picture: what a trained mark learns to outlive.

They are stand-ins for those of :mod:`watermark.removal`, which measure: JPEG is a cosine transform whose rounding has
a gradient, and what moves a picture is left out, because a reader registers it first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["attacked", "jpeg_like"]

_BLOCK = 8
# Quantisation of ITU-T T.81, annex K, tables K.1 and K.2, row by row.
_LUMA = (
    *(16, 11, 10, 16, 24, 40, 51, 61), *(12, 12, 14, 19, 26, 58, 60, 55), *(14, 13, 16, 24, 40, 57, 69, 56),
    *(14, 17, 22, 29, 51, 87, 80, 62), *(18, 22, 37, 56, 68, 109, 103, 77), *(24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101), *(72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip
_CHROMA = (
    *(17, 18, 24, 47), *(99,) * 4, *(18, 21, 26, 66), *(99,) * 4, *(24, 26, 56), *(99,) * 5, *(47, 66), *(99,) * 38,
)  # fmt: skip


def attacked(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each picture under one attack of random kind and strength, a quarter of them as they are.

    Args:
        images: float (N, 3, H, W) in [-1, 1], sides a multiple of 16.
        generator: on the CPU.

    Returns:
        The same shape; the gradient passes to ``images``.
    """
    kinds = torch.randint(4 * len(_ATTACKS) // 3, (len(images),), generator=generator).tolist()
    strengths = torch.rand(len(images), generator=generator).tolist()
    out = [
        _ATTACKS[kind](image[None], strength, generator) if kind < len(_ATTACKS) else image[None]
        for image, kind, strength in zip(images, kinds, strengths, strict=True)
    ]
    return torch.cat(out).clamp(-1, 1)


def jpeg_like(images: Tensor, quality: float) -> Tensor:
    """JPEG with halved colour planes, whose rounding is ``r + (x - r)^3`` (R. Shin and D. Song, 2017).

    Args:
        images: float (N, 3, H, W) in [-1, 1], sides a multiple of 16.
        quality: 1 to 100, as libjpeg counts it.
    """
    scale = 50 / quality if quality < 50 else 2 - quality / 50
    planes = torch.einsum("ij,njhw->nihw", _to_ycc().to(images), images * 127.5)
    luma, chroma = planes[:, :1], F.avg_pool2d(planes[:, 1:], 2)
    luma = _quantised(luma, _table(_LUMA, scale).to(images))
    chroma = F.interpolate(_quantised(chroma, _table(_CHROMA, scale).to(images)), scale_factor=2, mode="nearest")
    both = torch.cat([luma, chroma], dim=1)
    return torch.einsum("ij,njhw->nihw", torch.linalg.inv(_to_ycc()).to(images), both) / 127.5


def _quantised(planes: Tensor, table: Tensor) -> Tensor:
    basis = _cosines().to(planes)
    count, channels, height, width = planes.shape
    blocks = planes.reshape(count, channels, height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK)
    told = torch.einsum("ui,nchiwj,vj->nchuwv", basis, blocks, basis) / table[:, None, :]
    whole = told.detach().round()
    kept = (whole + (told - whole) ** 3) * table[:, None, :]
    return torch.einsum("ui,nchuwv,vj->nchiwj", basis, kept, basis).reshape(planes.shape)


@cache
def _cosines() -> Tensor:
    """The orthonormal cosine transform (8, 8)."""
    steps = torch.arange(_BLOCK, dtype=torch.float64)
    basis = torch.cos(math.pi * (steps[None] + 0.5) * steps[:, None] / _BLOCK) * math.sqrt(2 / _BLOCK)
    basis[0] /= math.sqrt(2)
    return basis.float()


@cache
def _to_ycc() -> Tensor:
    return torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])


def _table(values: tuple[int, ...], scale: float) -> Tensor:
    return (torch.tensor(values, dtype=torch.float32) * scale).round().clamp(1, 255).reshape(_BLOCK, _BLOCK)


def _compressed(image: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    return jpeg_like(image, 95 - 70 * strength)


def _blurred(image: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    sigma = 0.3 + 1.0 * strength
    steps = torch.arange(-4, 5, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2).to(image)
    kernel = (kernel / kernel.sum()).expand(3, 1, -1)
    padded = F.pad(image, (4, 4, 4, 4), mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel[..., None], groups=3), kernel[:, :, None], groups=3)


def _noisy(image: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    return image + 0.2 * strength * torch.randn(image.shape, generator=generator).to(image)


def _resized(image: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    height, width = image.shape[-2:]
    small = (round(height * (1 - 0.5 * strength)), round(width * (1 - 0.5 * strength)))
    shrunk = F.interpolate(image, small, mode="bilinear", antialias=True, align_corners=False)
    return F.interpolate(shrunk, (height, width), mode="bilinear", align_corners=False)


def _cropped(image: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """A part of the picture where it was, the rest grey, as after registration."""
    height, width = image.shape[-2:]
    side = math.sqrt(1 - 0.5 * strength)
    keep = (round(height * side), round(width * side))
    top = int(torch.randint(height - keep[0] + 1, (1,), generator=generator))
    left = int(torch.randint(width - keep[1] + 1, (1,), generator=generator))
    inside = torch.zeros_like(image[:, :1])
    inside[..., top : top + keep[0], left : left + keep[1]] = 1
    return image * inside


def _toned(image: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    contrast, brightness = (torch.rand(2, generator=generator) - 0.5).tolist()
    toned: Tensor = image * (1 + strength * contrast) + 0.5 * strength * brightness
    return toned


_ATTACKS: tuple[Callable[[Tensor, float, torch.Generator], Tensor], ...] = (
    _compressed,
    _blurred,
    _noisy,
    _resized,
    _cropped,
    _toned,
)
