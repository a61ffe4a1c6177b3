"""The log of issued nonces as a witness: never issued, issued for another picture, or genuine.

A nonce that is read says which picture a mark was made for. If the owner keeps a perceptual hash of each picture beside
its nonce, a picture drawn from stolen noise has a nonce whose hash is another picture's.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import numpy as np
import torch.nn.functional as F
from scipy.fft import dctn
from torch import Tensor

__all__ = ["Standing", "distance", "perceptual_hash", "standing"]

_SIDE, _KEPT = 32, 8
NEAR = 12
"""Bits of 64 by which a copy that was compressed or scaled may differ; unrelated pictures differ by 32 or so."""


class Standing(StrEnum):
    """What the log says of a marked picture."""

    GENUINE = "genuine"
    NEVER_ISSUED = "never_issued"
    OTHER_PICTURE = "other_picture"
    ISSUED = "issued"
    """The nonce is in the log, which does not say how its picture looked."""


def perceptual_hash(image: Tensor) -> int:
    """64 bits of a picture (3, H, W) in [-1, 1]: which of its lowest frequencies lie above their median.

    Source: the usual hash of 8x8 cosine coefficients of the grey picture at 32x32 (C. Zauner, 2010).
    """
    grey = image.float().mean(dim=0)[None, None]
    small = F.interpolate(grey, (_SIDE, _SIDE), mode="bilinear", antialias=True, align_corners=False)
    low = dctn(small[0, 0].double().cpu().numpy(), norm="ortho")[:_KEPT, :_KEPT].ravel()
    # The first says how bright the picture is, and nothing of its content.
    bits = low > np.median(low[1:])
    bits[0] = False
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def distance(one: int, two: int) -> int:
    """Bits in which two hashes differ."""
    return (one ^ two).bit_count()


def standing(nonce: bytes, image: Tensor, issued: Mapping[bytes, int], near: int = NEAR) -> Standing:
    """What the log says of a picture in which a nonce was read.

    Args:
        nonce: as read.
        image: (3, H, W) in [-1, 1].
        issued: nonce, as long as the scheme carries it, to the hash of the picture that it was issued for.
        near: bits by which the same picture may differ.
    """
    if nonce not in issued:
        return Standing.NEVER_ISSUED
    same = distance(perceptual_hash(image), issued[nonce]) <= near
    return Standing.GENUINE if same else Standing.OTHER_PICTURE
