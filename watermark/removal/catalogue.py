"""The attacks by name: those on pixels, and those that take a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from auditor.errors import UsageError
from auditor.text import did_you_mean, inert
from watermark.removal.adversarial import against_encoder
from watermark.removal.attack import Removal
from watermark.removal.blur import BLUR
from watermark.removal.crop import CROP, CROP_AND_SCALE
from watermark.removal.flip import FLIP
from watermark.removal.jpeg import JPEG
from watermark.removal.median import MEDIAN
from watermark.removal.noise import NOISE
from watermark.removal.regeneration import regeneration
from watermark.removal.resize import RESIZE
from watermark.removal.rotation import ROTATION
from watermark.removal.tone import BRIGHTNESS, CONTRAST
from watermark.removal.vae import vae_round_trips

if TYPE_CHECKING:
    from auditor.pipeline.view import View

__all__ = ["SIGNAL", "removal", "removals"]

SIGNAL = {
    each.id: each
    for each in (
        *(JPEG, RESIZE, BLUR, NOISE, BRIGHTNESS, CONTRAST, MEDIAN),
        *(ROTATION, CROP, CROP_AND_SCALE, FLIP),
    )
}
"""Attacks that need nothing but the picture. Averaging and surrogates need pictures of the attacker's own."""


def removals(view: View) -> dict[str, Removal]:
    """Those on pixels, and those with the autoencoder and the denoiser of a model."""
    with_model = (vae_round_trips(view), regeneration(view), against_encoder(view.components))
    return {**SIGNAL, **{each.id: each for each in with_model}}


def removal(name: str, view: View) -> Removal:
    """One attack by name. Raises ``UsageError`` with the closest known name."""
    known = removals(view)
    if name not in known:
        raise UsageError(
            f"unknown attack '{inert(name)}'{did_you_mean(name, known)}; there are {', '.join(known)}"
        )
    return known[name]
