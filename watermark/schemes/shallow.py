"""``shallow``: rings in the noise that is left when most of the picture is drawn."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from auditor.errors import UsageError
from auditor.registry import WATERMARKS, register
from watermark.detection import Detection
from watermark.engine.rings import Rings
from watermark.engine.spectrum import Spectrum
from watermark.engine.sphere import detected
from watermark.keys import KEY_BYTES, MasterKey
from watermark.scheme import Capacity, FloatArray, Latents, Shape, checked_payload, fresh_noise, sign_safe
from watermark.step_scheme import StepScheme

if TYPE_CHECKING:
    from torch import Tensor

    from watermark.scheduler_proxy import Moment, Writer

__all__ = ["Shallow"]

_LEAST_SIDE = 8
_INNER, _OUTER = 3, 20
_STRENGTH = 1.5
"""Of the rings, in deviations of the noise that they stand in."""


@lru_cache(maxsize=16)
def _rings(shape: Shape) -> Rings:
    shorter = min(shape[1:])
    if shorter < _LEAST_SIDE:
        raise UsageError(f"shallow needs latents of {_LEAST_SIDE}x{_LEAST_SIDE} or more, not {shape[1]}x{shape[2]}")
    outer = min(_OUTER, (shorter - 1) // 2)
    return Rings(Spectrum(shape[1], shape[2]), min(_INNER, outer), outer)


@register(WATERMARKS, "shallow")
class Shallow(StepScheme):
    """At 0.3 of the schedule the noise that is left takes rings of the key's in its spectrum; the picture stays.

    What a denoiser predicts there hangs on few directions of its input, so that a change of the noise in others leaves
    the picture as it was, and travels with it. As published, rings of the noisy latents themselves are replaced, what
    belongs to the picture too; here only those of the noise are, and the detector looks at the noise alone as well.
    Heights are a direction of which every ring of every channel has two coordinates, tested exactly as ``tree_ring``
    tests its own.
    """

    id = "shallow"
    goal = "Mark pictures late while they are drawn, so that they stay almost as they would have been."
    refs = ("W. Li et al., Shallow Diffuse, NeurIPS 2025, arXiv 2410.21088",)
    limits = (
        "Every picture of a key has the same pattern, which an average of many gives away and each of them lets "
        "forge. Says only present or absent. Lost under rotation, crops and rescaling that are not undone first."
    )
    share = 0.3

    def capacity(self, shape: Shape) -> Capacity:
        """See :meth:`LatentScheme.capacity`. Keys are directions, as many as there are master keys."""
        cells = shape[0] * int(_rings(shape).sizes.sum())
        note = "One pattern for every picture: an average of many pictures shows it."
        return Capacity(0, 0, 2 * cells, 8.0 * KEY_BYTES, note)

    def fixed_share(self, shape: Shape) -> float:
        """Part of the mark's variance that is the same in every picture of a key, in (0, 1)."""
        ringed = self.capacity(shape).n
        return ringed * _STRENGTH**2 / (ringed * _STRENGTH**2 + math.prod(shape) - ringed)

    def embed(self, key: MasterKey, nonce: bytes, shape: Shape, payload: bytes = b"") -> Latents:
        """Noise with the rings in it. See :meth:`LatentScheme.embed`."""
        rings = _rings(shape)
        checked_payload(payload, self.capacity(shape))
        noise = fresh_noise(key, "shallow|noise", nonce, shape)
        values = rings.spectrum.read(noise)
        return sign_safe(rings.spectrum.write(noise, rings.spread(_heights(key, shape), values)))

    def writer(self, marks: Tensor) -> Writer:
        """See :meth:`StepScheme.writer`: once, at the first step from which on 0.3 of the schedule is left or less."""
        import torch

        rings = _rings((marks.shape[1], marks.shape[2], marks.shape[3]))
        wanted = rings.spectrum.read(marks.double().numpy())

        def replace(clean: Tensor, noise: Tensor, at: Moment) -> tuple[Tensor, Tensor]:
            if not at.share <= self.share < at.before and not (at.last and at.share > self.share):
                return clean, noise
            if at.last:
                raise UsageError("shallow needs more sampler steps: two at 0.3 of the schedule or below")
            planes = noise.double().cpu().numpy()
            values = rings.spectrum.read(planes)
            values[..., rings.inside] = wanted[..., rings.inside]
            return clean, torch.from_numpy(rings.spectrum.write(planes, values)).to(noise)

        return replace

    def _detect(
        self, latents: FloatArray, held: Capacity, key: MasterKey, nonces: tuple[bytes, ...],
        payload: bytes | None, seed: int,
    ) -> Detection:  # fmt: skip
        """The mark does not hang on the nonce, so that a log of them adds nothing."""
        rings, heights = _rings(latents.shape), _heights(key, latents.shape)
        evidence = rings.evidence(rings.spectrum.read(latents))
        return detected(
            self.id, heights.ravel(), evidence.ravel(), held.n, held.floor, {"rings": heights.size}
        )


def _heights(key: MasterKey, shape: Shape) -> FloatArray:
    """The heights of each ring (C, 2, rings), in deviations of the noise."""
    rings = _rings(shape)
    heights = key.stream("shallow|heights").normals(2 * shape[0] * rings.count).reshape(shape[0], 2, -1)
    cells = 2 * shape[0] * float(rings.sizes.sum())
    size = math.sqrt(cells / float((rings.sizes * np.square(heights)).sum()))
    return np.asarray(_STRENGTH * size * heights)
