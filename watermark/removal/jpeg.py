"""JPEG, at a quality."""

from __future__ import annotations

import io

import numpy as np
import torch
from torch import Tensor

from watermark.removal.attack import Removal, rows

__all__ = ["JPEG"]


def _compressed(image: Tensor, quality: float, seed: int) -> Tensor:
    from PIL import Image

    pixels = (image * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=round(quality))
    with Image.open(file) as back:
        found = np.asarray(back.convert("RGB"), dtype=np.float32)
    return torch.from_numpy(found / 255).permute(2, 0, 1).to(image)


JPEG = Removal(
    id="jpeg",
    goal="Compress as JPEG and open again.",
    unit="quality, lower is harsher",
    grid=(75, 50, 25),
    least=1,
    most=100,
    refs=("B. An et al., WAVES, ICML 2024, arXiv 2401.08573",),
    effect=rows(_compressed),
)
