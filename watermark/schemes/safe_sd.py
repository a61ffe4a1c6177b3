"""``safe_sd``: a graphical mark that is injected while sampling, and comes out of a decoder of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auditor.contracts import JsonValue
from auditor.errors import UsageError
from auditor.registry import WATERMARKS, register
from watermark.detection import Detection, Method
from watermark.engine import qr
from watermark.engine.hidden import Tested, judged_code, judged_signs, modules_at
from watermark.keys import KEY_BYTES, MasterKey
from watermark.picture_scheme import PictureScheme, checked_reading, whole_tiles
from watermark.scheme import Capacity, FloatArray, Shape, checked_payload

__all__ = ["SafeSd"]

BoolArray = NDArray[np.bool_]


@register(WATERMARKS, "safe_sd")
class SafeSd(PictureScheme):
    """A picture of 21 by 21 modules, by default a QR code of seven bytes, hidden in the picture that is drawn.

    The model's own encoder makes latents of the mark, an injection convolution puts them into those of the picture at
    some steps of the sampler, and a second decoder brings the mark back from the encoded picture. As published the mark
    is a logo that is judged by eye, for which there is no error rate, and it is read from the latents that were
    injected. Here extraction was trained through decoding, attacks and encoding, and the key turns modules over by fair
    coins before they are injected: the code is read by turning them back, and under another key what comes out is even
    noise, so that the p-value is exact. A drawing in place of the code is tested in the same way (:meth:`find`).
    """

    id = "safe_sd"
    goal = "Hide a QR code or a drawing of 21 by 21 modules in pictures while they are drawn."
    refs = ("Z. Ma et al., Safe-SD, ACM Multimedia 2024, arXiv 2407.13188",)
    limits = (
        "Works beside the embedded autoencoder alone. The picture is changed visibly on close inspection, and all "
        "pictures of a key and payload hide the same pattern. Lost when the picture is turned, mirrored, cut or "
        "rescaled and this is not undone first."
    )
    embed_point = "step"

    def capacity(self, shape: Shape) -> Capacity:
        """See :meth:`PictureScheme.capacity`; seven bytes from 16x16 latents on."""
        copies = whole_tiles(self.id, shape)
        note = f"{copies} whole {'copy' if copies == 1 else 'copies'} of the code; one pattern for every picture."
        return Capacity(0, 8 * qr.CAPACITY, qr.SIDE**2, 8.0 * KEY_BYTES, note)

    def modules(self, key: MasterKey, payload: bytes = b"") -> BoolArray:
        """See :meth:`PictureScheme.modules`: the code under the key's mask."""
        held = self.capacity((4, 16, 16))
        return self.masked(key, qr.draw(qr.modules_of(checked_payload(payload, held))))

    def masked(self, key: MasterKey, drawing: BoolArray) -> BoolArray:
        """A drawing (21, 21), dark modules True, as it is injected under a key.

        Raises:
            UsageError: another shape.
        """
        if drawing.shape != (qr.SIDE, qr.SIDE):
            raise UsageError(f"a drawing has {qr.SIDE} by {qr.SIDE} modules, not {drawing.shape}")
        return np.asarray(drawing.astype(bool) ^ (_mask(key) < 0))

    def find(self, reading: Any, key: MasterKey, drawings: Sequence[BoolArray], seed: int = 0) -> Detection:
        """Tests for the drawings of a vocabulary, each of which is a look; ``details`` says which came out best.

        Args:
            reading: see :meth:`PictureScheme.detect`.
            key: the master key.
            drawings: (21, 21) each, one at least.
            seed: of the random keys of a Monte Carlo p-value.

        Raises:
            UsageError: no drawing, or as :meth:`PictureScheme.detect`.
        """
        if not drawings:
            raise UsageError("name a drawing to look for, or read the code that is hidden by default")
        values = checked_reading(reading) * _mask(key)
        signs = [np.where(drawing, 1.0, -1.0) for drawing in drawings]
        best = int(np.argmax([float((each * values).sum()) for each in signs]))
        tested = judged_signs((signs[best] * values).ravel(), seed)
        found = self._detection(tested, self.capacity((4, 16, 16)), {"drawing": best, "shown": _rows(values > 0)})
        return found.corrected(len(drawings))

    def _judge(
        self, reading: FloatArray, held: Capacity, key: MasterKey, payload: bytes | None, seed: int
    ) -> Detection:
        shown = reading * _mask(key)
        tested = judged_code(shown, payload, seed)
        seen = modules_at(shown) > 0
        wrong = int((seen != qr.modules_of(tested.word)).sum())
        told = {"shown": _rows(shown > 0), "qr": _rows(qr.draw(seen)), "modules_wrong": wrong}
        return self._detection(tested, held, {**told, "qr_readable": qr.readable(seen, tested.word)})

    def _detection(self, tested: Tested, held: Capacity, details: dict[str, JsonValue]) -> Detection:
        return Detection(
            scheme=self.id,
            p_value=max(tested.p_value, held.floor),
            method=tested.method,
            statistic=tested.deviations,
            n=held.n,
            floor=held.floor,
            payload=tested.word,
            tails={Method.CERTIFIED: max(tested.bound, held.floor)},
            details=details,
        )


def _mask(key: MasterKey) -> FloatArray:
    """Signs (21, 21); a module under -1 is turned over."""
    return key.stream("safe_sd|mask").signs(qr.SIDE**2).reshape(qr.SIDE, qr.SIDE)


def _rows(dark: BoolArray) -> list[JsonValue]:
    return ["".join("#" if module else "." for module in row) for row in dark]
