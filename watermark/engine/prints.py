"""The print that starting noise leaves in a finished picture, read without a denoiser.

A deterministic sampler does not forget its noise: clean latents are correlated with what they were drawn from (N. Goren
et al., "NoisePrints", ICLR 2026, arXiv 2510.13793). Whoever knows the noise, value by value and not by its signs alone,
needs nothing but the autoencoder's encoder to ask for it. Over keys drawn at random the noise is standard normal, so
that its direction is uniform and the cosine with any picture has one known distribution.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from watermark.detection import Detection, Method
from watermark.engine.sphere import cosine, cosine_p

__all__ = ["best_print", "whitened"]

FloatArray = NDArray[np.float64]

_KEPT = 0.3
"""Part of a channel's mean power that is added to each frequency's: weak ones are not blown up."""


def whitened(latents: FloatArray) -> FloatArray:
    """Latents (C, h, w) with the spectrum of each channel flattened.

    A picture's own shading is strongest at low frequencies and says nothing of the noise.
    """
    spectrum = np.fft.fft2(latents - latents.mean(axis=(1, 2), keepdims=True))
    power = np.square(np.abs(spectrum))
    level = power + _KEPT * power.mean(axis=(1, 2), keepdims=True)
    return np.asarray(np.fft.ifft2(spectrum / np.sqrt(np.where(level > 0, level, 1.0))).real)


def best_print(
    scheme: str, latents: FloatArray, issued: Iterable[tuple[bytes, bytes, FloatArray]], floor: float
) -> Detection:
    """The noise, of several, that a picture was most likely drawn from; each is one look.

    Args:
        scheme: id of the scheme.
        latents: (C, h, w), clean or inverted.
        issued: nonce, payload and noise (C, h, w) of each; one at least.
        floor: the smallest p-value of one look that the key space allows.

    Raises:
        ValueError: there is nothing to compare with.
    """
    found = whitened(latents).ravel()
    likeness = [(cosine(noise.ravel(), found), nonce, payload) for nonce, payload, noise in issued]
    if not likeness:
        raise ValueError("there is no noise to compare with")
    best, nonce, payload = max(likeness, key=lambda each: each[0])
    p = max(cosine_p(best, len(found)), floor)
    detection = Detection(
        scheme=scheme,
        p_value=p,
        method=Method.EXACT,
        statistic=best * np.sqrt(len(found)),
        n=len(found),
        floor=floor,
        nonce=nonce,
        payload=payload,
        tails={Method.EXACT: p},
        details={"cosine": best},
    )
    return detection.corrected(len(likeness))
