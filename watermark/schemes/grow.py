"""``grow``: signs of cosine coefficients, grown into the picture while it is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from auditor.errors import UsageError
from auditor.registry import WATERMARKS, register
from watermark.detection import Detection
from watermark.engine.cosines import Band
from watermark.engine.logged import LoggedSigns
from watermark.keys import MasterKey
from watermark.scheme import (
    Capacity,
    FloatArray,
    Latents,
    Shape,
    checked_nonce,
    checked_payload,
    sign_safe,
)
from watermark.step_scheme import StepScheme

if TYPE_CHECKING:
    from torch import Tensor

    from watermark.scheduler_proxy import Moment, Writer

__all__ = ["Grow"]

_LOW, _HIGH = 0.25, 0.75
_LEAST = 256
_FROM = 0.2
"""The share of the schedule from which on the mark is pushed: what the picture shows is settled then."""
_MARGIN = 0.4
"""How far every coefficient is pushed to its side, in deviations of the latents."""
_PACE = 0.5
"""Part of what is missing that one step makes good."""


@register(WATERMARKS, "grow")
class Grow(StepScheme):
    """Pushes the clean latents that each step predicts to the key's side of a margin, coefficient by coefficient.

    The push is the gradient of a hinge, ``sum max(0, margin - s c)``, which in an orthonormal basis is known without
    backpropagation. In the steps that are left the model draws around it. Read from the encoded picture alone: no
    denoiser is called, and no adapter matters.

    As published, every picture of a key has the same signs. Here a nonce chooses them, which a log has to keep, so that
    pictures of one key have nothing in common.
    """

    id = "grow"
    goal = "Mark pictures while they are drawn by signs that are read without inversion."
    refs = ("GROW, CVPR 2026 (as described by its authors; no code was seen)",)
    limits = (
        "Has no blind header: the detector needs a log of issued nonces. The picture is changed, by as much as the "
        "margin. Lost under rotation, flips, crops and rescaling that are not undone first."
    )
    share = 0.0

    def capacity(self, shape: Shape) -> Capacity:
        """See :meth:`LatentScheme.capacity`; 8 bits from 256 coefficients on, 16 from 1,024 and 64 from 4,096 on."""
        n = shape[0] * _band(shape).size
        if n < _LEAST:
            raise UsageError(f"grow needs {_LEAST} coefficients or more in its band, and there are {n}")
        bits = next(bits for least, bits in ((4096, 64), (1024, 16), (_LEAST, 8)) if n >= least)
        return Capacity(0, bits, n, float(n), "The nonce must be known: keep a log of issued nonces.")

    def embed(self, key: MasterKey, nonce: bytes, shape: Shape, payload: bytes = b"") -> Latents:
        """The signs as planes. See :meth:`LatentScheme.embed`."""
        held, band = self.capacity(shape), _band(shape)
        signs = _code(held).written(key, checked_nonce(nonce), checked_payload(payload, held))
        planes = band.planes(signs.reshape(shape[0], -1))
        return sign_safe(planes * math.sqrt(math.prod(shape) / held.n))

    def writer(self, marks: Tensor) -> Writer:
        """See :meth:`StepScheme.writer`."""
        import torch

        band = _band((marks.shape[1], marks.shape[2], marks.shape[3]))
        rows, columns = (torch.from_numpy(each).float() for each in (band.rows, band.columns))
        inside = torch.from_numpy(band.inside)
        signs = (rows @ marks @ columns.T).sign() * inside

        def push(clean: Tensor, noise: Tensor, at: Moment) -> tuple[Tensor, Tensor]:
            if at.share > _FROM and not at.last:
                return clean, noise
            down, across, wanted = (each.to(clean.device) for each in (rows, columns, signs))
            found = down @ clean @ across.T
            missing = (_MARGIN - wanted * found).clamp(min=0)
            step = down.T @ (wanted * missing) @ across
            return clean + _PACE * step, noise

        return push

    def _detect(
        self, latents: FloatArray, held: Capacity, key: MasterKey, nonces: tuple[bytes, ...],
        payload: bytes | None, seed: int,
    ) -> Detection:  # fmt: skip
        """Raises ``UsageError`` also where no nonce is given."""
        if not nonces:
            raise UsageError("grow cannot be read blindly: name the issued nonces, or mark with tail_sign")
        return _code(held).detect(key, nonces, _values(latents), payload, seed)

    def fingerprints(
        self, latents: FloatArray, key: MasterKey, nonce: bytes, payloads: Sequence[bytes]
    ) -> FloatArray:
        """See :meth:`LatentScheme.fingerprints`: one soft value a bit."""
        return _code(self.capacity(latents.shape)).fingerprints(_values(latents), key, nonce, payloads)


def _values(latents: FloatArray) -> FloatArray:
    """Coefficients (n,) of unit mean square, large ones held back: they are the picture's and not the mark's."""
    found = _band(latents.shape).read(latents)
    found = found / np.maximum(np.sqrt(np.square(found).mean(axis=-1, keepdims=True)), 1e-12)
    held = np.tanh(found).ravel()
    return np.asarray(held / max(float(np.sqrt(np.square(held).mean())), 1e-12))


@lru_cache(maxsize=16)
def _band(shape: Shape) -> Band:
    return Band(shape[1], shape[2], _LOW, _HIGH)


def _code(held: Capacity) -> LoggedSigns:
    return LoggedSigns(Grow.id, held.n, held.payload_bits, held.floor, "grow|")
