"""Contact sheets: labelled rows of images as one PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

__all__ = ["contact_sheet"]

_PAD, _LABEL, _SIDE = 6, 20, 128


def contact_sheet(rows: Sequence[tuple[str, Tensor]], columns: Sequence[str] = ()) -> bytes:
    """Draws rows of images under their labels.

    Args:
        rows: (label, images (N, 3, H, W) in [-1, 1]).
        columns: captions above the columns.

    Returns:
        A PNG.
    """
    widest = max(len(images) for _, images in rows)
    head = _LABEL if columns else 0
    width = widest * (_SIDE + _PAD) + _PAD
    height = head + len(rows) * (_SIDE + _LABEL + _PAD) + _PAD
    sheet = Image.new("RGB", (width, height), (250, 250, 248))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for i, caption in enumerate(columns):
        pen.text((_PAD + i * (_SIDE + _PAD), 3), _fit(caption, _SIDE // 6), fill=(70, 70, 76), font=font)
    for r, (label, images) in enumerate(rows):
        top = head + r * (_SIDE + _LABEL + _PAD) + _PAD
        pen.text((_PAD, top), _fit(label, width // 6), fill=(20, 20, 24), font=font)
        for i, image in enumerate(images):
            pixels = ((image.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
            tile = Image.fromarray(pixels).resize(
                (_SIDE, _SIDE),
                Image.Resampling.NEAREST if image.shape[-1] <= 64 else Image.Resampling.LANCZOS,
            )
            sheet.paste(tile, (_PAD + i * (_SIDE + _PAD), top + _LABEL))
    out = io.BytesIO()
    sheet.save(out, "PNG")
    return out.getvalue()


def _fit(text: str, letters: int) -> str:
    plain = text.encode("ascii", "replace").decode()
    return plain if len(plain) <= letters else plain[: letters - 1] + "..."
