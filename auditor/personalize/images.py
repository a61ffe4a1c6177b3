"""Instance photos from a folder: opened safely, squared, scaled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from auditor.errors import UsageError
from auditor.text import inert

__all__ = ["load_images"]

_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
# Of all that the library reads; some formats start other programs.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_MOST_PIXELS = 64_000_000


def load_images(folder: Path, size: int) -> Tensor:
    """Centre-cropped squares of all pictures in a folder, in name order: float32 (N, 3, size, size) in [-1, 1].

    Raises:
        UsageError: no such folder, no picture in it, or a file that is not a readable picture.
    """
    from PIL import Image, ImageOps

    if not folder.is_dir():
        raise UsageError(f"'{inert(str(folder))}' is not a folder of images")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
    if not paths:
        raise UsageError(f"'{inert(str(folder))}' holds no images ({', '.join(sorted(_SUFFIXES))})")
    out = []
    for path in paths:
        try:
            with Image.open(path, formats=_FORMATS) as opened:
                if opened.width * opened.height > _MOST_PIXELS:
                    most = _MOST_PIXELS // 10**6
                    raise UsageError(
                        f"'{inert(path.name)}' has more than {most} million pixels; scale it down first"
                    )
                square = ImageOps.fit(
                    ImageOps.exif_transpose(opened).convert("RGB"), (size, size), Image.Resampling.LANCZOS
                )
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise UsageError(f"'{inert(path.name)}' is not a readable image") from error
        out.append(torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 127.5 - 1)
    return torch.stack(out)
