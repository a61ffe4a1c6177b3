"""Pictures without the mark, and keys that are not theirs: how often a detector is wrong at each level."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auditor.proving.counts import write_whole
from watermark.inversion import invert
from watermark.keys import NONCE_BYTES, MasterKey
from watermark.proving.bench import STEPS, Bench, as_images
from watermark.proving.reading import readings_of
from watermark.scheme import LatentScheme

__all__ = ["KINDS", "PART", "null_unit"]

KINDS = ("natural", "generated", "wrong key")
PART = 250
"""Nulls of one kind in one unit."""


def null_unit(bench: Bench, scheme: LatentScheme, part: int) -> dict[str, Any]:
    """P-values of keys that were drawn without regard to the picture, :data:`PART` for each kind of picture.

    Whatever the picture, the p-value of a random key is to be valid, so that each inverted picture of the chunk of the
    same number serves many keys.
    P-values are those of the last rung before the ladder's correction, which could only make them larger.
    """
    reading = readings_of(scheme.capacity(bench.shape))[0]
    out: dict[str, Any] = {}
    for kind in KINDS:
        latents, rng = _inverted(bench, scheme, kind, part), bench.rng("null", scheme.id, kind, part)
        found = []
        for i in range(PART):
            key, nonce = MasterKey(rng.bytes(32)), rng.bytes(NONCE_BYTES)
            detection = scheme.detect(
                latents[i % len(latents)],
                key,
                nonces=() if reading == "blind" else (nonce,),
                seed=int(rng.integers(2**31)),
            )
            found.append(detection.p_value)
        out[kind] = found
    return out


def _inverted(bench: Bench, scheme: LatentScheme, kind: str, chunk: int) -> NDArray[np.float32]:
    """Latents of a chunk of pictures of one kind, inverted once and kept."""
    name = f"{scheme.id if kind == 'wrong key' else kind}-inverted-{chunk}"
    path = bench.out / "pictures" / str(bench.size) / f"{name}.npy"
    if not path.exists():
        if kind == "wrong key":
            pixels = bench.marked(scheme, chunk).pixels
        else:
            pixels = bench.natural(chunk) if kind == "natural" else bench.clean(chunk)
        file = io.BytesIO()
        np.save(file, invert(bench.view, as_images(pixels), STEPS, 0), allow_pickle=False)
        write_whole(path, file.getvalue())
    found: NDArray[np.float32] = np.load(path, allow_pickle=False)
    return found
