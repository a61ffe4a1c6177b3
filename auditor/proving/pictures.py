"""Pictures as a user has them: a folder of PNG files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from auditor.errors import OutputError
from auditor.text import inert

__all__ = ["write_pictures"]


def write_pictures(pixels: Iterable[np.ndarray], folder: Path) -> Path:
    """Writes pictures, each uint8 (H, W, 3), as ``00.png`` and so on; returns the folder.

    Raises:
        OutputError: they cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for i, picture in enumerate(pixels):
            Image.fromarray(picture).save(folder / f"{i:02d}.png")
    except OSError as error:
        raise OutputError(
            f"pictures cannot be written into {inert(folder.name)}: {error.strerror}"
        ) from error
    return folder
