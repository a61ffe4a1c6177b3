"""Instance photos from a folder: opened safely, squared, scaled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from auditor.errors import UsageError
from auditor.text import inert

__all__ = ["load_images", "picture_paths"]

_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
# Of all that the library reads; some formats start other programs.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_MOST_PIXELS = 64_000_000


def load_images(folder: Path, size: int, skip_unreadable: bool = False) -> Tensor:
    """Centre-cropped squares of all pictures in a folder, in name order: float32 (N, 3, size, size) in [-1, 1].

    Args:
        folder: where they lie.
        size: pixels of a side.
        skip_unreadable: leave out what cannot be read, as long as one picture can.

    Raises:
        UsageError: no such folder, no picture in it, or a file that is not a readable picture.
    """
    paths = picture_paths(folder)
    out, refused = [], []
    for path in paths:
        try:
            out.append(_square(path, size))
        except UsageError as error:
            if not skip_unreadable:
                raise UsageError(f"{error}; take it out, or leave such files out with --skip-unreadable") from error
            refused.append(path.name)
    if not out:
        raise UsageError(f"none of the {len(refused)} images in '{inert(str(folder))}' can be read")
    return torch.stack(out)


def picture_paths(folder: Path) -> list[Path]:
    """Files of a folder that are called like pictures, in name order.

    Raises:
        UsageError: no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise UsageError(f"'{inert(str(folder))}' is not a folder of images")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
    if not paths:
        raise UsageError(f"'{inert(str(folder))}' holds no images ({', '.join(sorted(_SUFFIXES))})")
    return paths


def _square(path: Path, size: int) -> Tensor:
    from PIL import Image, ImageOps

    try:
        with Image.open(path, formats=_FORMATS) as opened:
            if opened.width * opened.height > _MOST_PIXELS:
                most = _MOST_PIXELS // 10**6
                raise UsageError(f"'{inert(path.name)}' has more than {most} million pixels; scale it down first")
            square = ImageOps.fit(
                ImageOps.exif_transpose(opened).convert("RGB"), (size, size), Image.Resampling.LANCZOS
            )
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UsageError(f"'{inert(path.name)}' is not a readable image") from error
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 127.5 - 1
