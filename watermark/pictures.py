"""Picture files in and out of the detector: opened safely, never scaled."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from auditor.errors import MalformedArtifact, UsageError
from auditor.text import inert

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["read_picture", "write_picture"]

# Of all that the library reads; some formats start other programs.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_MOST_PIXELS = 64_000_000


def read_picture(path: Path, multiple: int) -> Tensor:
    """A picture file, float32 (3, H, W) in [-1, 1].

    A mark is a matter of single latents, so that nothing is scaled: what goes beyond a multiple of a latent's size at
    the right and at the bottom is left out.

    Args:
        path: PNG, JPEG, WebP or BMP.
        multiple: pixels that both sides must be a multiple of.

    Raises:
        UsageError: there is no such file.
        MalformedArtifact: it is not a picture of these kinds, broken, too large, or smaller than one latent.
    """
    import numpy as np
    import torch
    from PIL import Image

    shown = inert(str(path), 300)
    if not path.exists():
        raise UsageError(f"there is no picture '{shown}'; check the path")
    if not path.is_file():
        raise UsageError(f"'{shown}' is not a file; name pictures one by one")
    try:
        with Image.open(path, formats=_FORMATS) as opened:
            if opened.width * opened.height > _MOST_PIXELS:
                raise MalformedArtifact(f"'{shown}' has more than {_MOST_PIXELS // 10**6} million pixels")
            pixels = np.asarray(opened.convert("RGB"), dtype=np.float32)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        kinds = "PNG, JPEG, WebP or BMP"
        raise MalformedArtifact(f"'{shown}' is not a readable picture ({kinds})") from error
    height, width = (side // multiple * multiple for side in pixels.shape[:2])
    if not height or not width:
        raise MalformedArtifact(f"'{shown}' is smaller than {multiple} pixels, which no mark fits in")
    return torch.from_numpy(pixels[:height, :width] / 127.5 - 1).permute(2, 0, 1).contiguous()


def write_picture(path: Path, image: Tensor) -> None:
    """Writes (3, H, W) in [-1, 1] as PNG, which loses nothing but the rounding to 8 bits."""
    from PIL import Image

    pixels = ((image.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
    Image.fromarray(pixels).save(path, "PNG")
