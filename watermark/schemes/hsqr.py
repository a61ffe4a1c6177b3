"""``hsqr``: a QR code in the spectrum of the noise, under a secret mask, readable by any reader."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auditor.contracts import JsonValue
from auditor.errors import UsageError
from auditor.registry import WATERMARKS, register
from watermark.detection import Detection, Method
from watermark.engine import qr
from watermark.engine.mixture import word_evidence
from watermark.engine.spectrum import Spectrum
from watermark.engine.sums import DRAWS, Agreement, agreement
from watermark.engine.window import Window
from watermark.keys import KEY_BYTES, MasterKey
from watermark.scheme import (
    Capacity,
    FloatArray,
    Latents,
    LatentScheme,
    Shape,
    checked_payload,
    fresh_noise,
    sign_safe,
)
from watermark.tails import random_signs, rank_p, settle

__all__ = ["Hsqr", "Layout", "layout_of"]

BoolArray = NDArray[np.bool_]

_WANTED = 1764
"""Coordinates of the published code: 42 by 42."""
_READ = 0.01
"""Share of the level of the arm that reads the code: its p-values are tiny or nothing, whatever it pays."""
_TILT = 0.16
"""Mean of sign times value at which ranks are sharpest; a likelihood ratio to the second order."""
_WORDS = 2.0 ** (8 * qr.CAPACITY)


@dataclass(frozen=True)
class Layout:
    """Where the code lies.

    Attributes:
        window: the part of the latents whose spectrum it is.
        spectrum: of the window.
        channels: the last so many.
    """

    window: Window
    spectrum: Spectrum
    channels: int

    @property
    def n(self) -> int:
        """Coordinates that carry a sign."""
        return self.channels * self.spectrum.size

    @property
    def copies(self) -> int:
        """Of each module."""
        return self.n // qr.MODULES

    @property
    def carrying(self) -> int:
        """Coordinates that carry modules; the signs of the others are fixed by the key alone."""
        return self.copies * qr.MODULES


@lru_cache(maxsize=16)
def layout_of(shape: Shape) -> Layout:
    """The layout for latents (C, h, w): as many channels as the published number of coordinates takes.

    Raises:
        UsageError: the latents do not hold two copies of the code.
    """
    channels, height, width = shape
    window = Window.of(height, width)
    spectrum = Spectrum(window.height, window.width)
    most = channels * spectrum.size
    if most < 2 * qr.MODULES:
        raise UsageError(
            f"hsqr needs {2 * qr.MODULES} free coordinates in the spectrum, and {channels} channels of "
            f"{height}x{width} have {most}; two of 16x16 are enough"
        )
    return Layout(window, spectrum, min(channels, math.ceil(_WANTED / spectrum.size)))


@register(WATERMARKS, "hsqr")
class Hsqr(LatentScheme):
    """Signs of real and imaginary parts are modules of a QR code of seven bytes, times secret signs.

    Only the 208 modules that hang on the payload are carried, several times over and at secret places: finders and
    timing are the same in every code and would be a public pattern. The detector draws them back around what it read.
    Magnitudes are fresh for every picture and normal, so that each picture's noise is what unmarked noise is.

    The test has two arms that share the level. One needs no code to be read: copies of a module agree, whatever it says
    (:mod:`watermark.engine.mixture`). The other takes the code that was read, and pays for all 2**56 that could have
    been. The first takes copies that all disagree with their signs for evidence as well, so that turning the noise over
    does not hide it.
    """

    id = "hsqr"
    goal = "Mark starting noise by a QR code of seven bytes in its spectrum, under a secret mask."
    refs = ("S. Lee and N. I. Cho, Semantic Watermarking Reinvented (SFW), ICCV 2025, arXiv 2509.07647",)
    limits = (
        "Pictures of one key and payload have the same pattern, which an average of many gives away and each of them "
        "lets forge. Lost when the picture is turned or rescaled and this is not undone first."
    )

    def capacity(self, shape: Shape) -> Capacity:
        """See :meth:`LatentScheme.capacity`; seven bytes."""
        layout = layout_of(shape)
        note = f"{layout.copies} copies of each module; one pattern for every picture of a payload."
        return Capacity(0, 8 * qr.CAPACITY, layout.n, min(8.0 * KEY_BYTES, layout.n), note)

    def fixed_share(self, shape: Shape) -> float:
        """Part of the noise's variance that is the same in every picture of a key and payload, in (0, 1)."""
        return 2 / math.pi * layout_of(shape).n / math.prod(shape)

    def embed(self, key: MasterKey, nonce: bytes, shape: Shape, payload: bytes = b"") -> Latents:
        """See :meth:`LatentScheme.embed`."""
        layout = layout_of(shape)
        word = checked_payload(payload, self.capacity(shape))
        noise = fresh_noise(key, "hsqr|noise", nonce, shape)
        signs, order = _secrets(key, layout)
        signs[: layout.carrying] *= np.repeat(_modules(word), layout.copies)
        marked = layout.window.cut(noise)[-layout.channels :]
        values = np.abs(layout.spectrum.read(marked)).ravel()
        values[order] *= signs
        shaped = values.reshape(layout.channels, 2, layout.spectrum.height, layout.spectrum.columns)
        layout.window.cut(noise)[-layout.channels :] = layout.spectrum.write(marked, shaped)
        return sign_safe(noise)

    def _detect(
        self, latents: FloatArray, held: Capacity, key: MasterKey, nonces: tuple[bytes, ...],
        payload: bytes | None, seed: int,
    ) -> Detection:  # fmt: skip
        """The mark does not hang on the nonce, so that a log of them adds nothing."""
        layout = layout_of(latents.shape)
        carrying, known = _agreeing(key, layout, latents)
        soft = carrying.sum(axis=1)
        word = qr.read_soft(soft) if payload is None else payload
        tested = _with_word(carrying, known, word)
        if payload is None:
            p, method, bound = _unknown(carrying, known, tested.bound, seed)
        else:
            (p, method), bound = tested.settled(seed), tested.bound
        return Detection(
            scheme=self.id,
            p_value=max(p, held.floor),
            method=method,
            statistic=tested.deviations,
            n=layout.n,
            floor=held.floor,
            payload=word,
            tails={Method.CERTIFIED: max(bound, held.floor)},
            details=_picture(soft > 0, word),
        )

    def fingerprints(
        self, latents: FloatArray, key: MasterKey, nonce: bytes, payloads: Sequence[bytes]
    ) -> FloatArray:
        """See :meth:`LatentScheme.fingerprints`: the modules that show payload bits as they are, one soft value each.

        Check bytes are left out: their signs are functions of the others.
        """
        carrying, _ = _agreeing(key, layout_of(latents.shape), latents)
        plain = slice(12, 12 + 8 * qr.CAPACITY)
        modules = np.stack([_modules(payload)[plain] for payload in payloads])
        return np.asarray(modules * carrying.sum(axis=1)[plain], dtype=np.float64)


def _unknown(carrying: FloatArray, known: FloatArray, read: float, seed: int) -> tuple[float, Method, float]:
    """The p-value where the payload is not known, its method, and the part of it that is bounded.

    Args:
        carrying: (208, copies).
        known: (m,).
        read: bound on the chance that one code agrees as well as the one that was read.
        seed: of random keys.
    """
    any_code = min(1.0, _WORDS / _READ * read)
    blind = min(1.0, math.exp(-max(word_evidence(carrying, known).log_e, 0.0)) / (1 - _READ))
    p, method = settle(blind, lambda: _ranked(carrying, known, np.random.default_rng(seed)) / (1 - _READ))
    bound = min(blind, any_code)
    return (any_code, Method.CERTIFIED, bound) if any_code < p else (p, method, bound)


def _ranked(carrying: FloatArray, known: FloatArray, rng: np.random.Generator) -> float:
    """The rank of how well copies agree, among random signs."""

    def strength(agreeing: NDArray[np.floating]) -> FloatArray:
        split = carrying.size
        soft = agreeing[:, :split].reshape(-1, *carrying.shape).sum(axis=2)
        return np.asarray(
            agreeing[:, split:].sum(axis=1) + _TILT / 2 * np.square(soft).sum(axis=1), np.float64
        )

    values = np.concatenate([carrying.ravel(), known]).astype(np.float32)
    drawn = [strength(signs * values) for signs in random_signs(DRAWS, len(values), rng)]
    return rank_p(float(strength(values[None])[0]), np.concatenate(drawn))


def _with_word(carrying: FloatArray, known: FloatArray, word: bytes) -> Agreement:
    return agreement(np.concatenate([(carrying * _modules(word)[:, None]).ravel(), known]))


def _modules(word: bytes) -> FloatArray:
    """Modules (208,) of a code as signs, dark ones 1."""
    return 2 * qr.modules_of(word).astype(np.float64) - 1


def _agreeing(key: MasterKey, layout: Layout, latents: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Secret signs times values: of the modules (208, copies), and of what carries none."""
    signs, order = _secrets(key, layout)
    found = layout.spectrum.read(layout.window.cut(latents)[-layout.channels :])
    agreeing = signs * layout.spectrum.levelled(found).ravel()[order]
    return agreeing[: layout.carrying].reshape(-1, layout.copies), agreeing[layout.carrying :]


def _secrets(key: MasterKey, layout: Layout) -> tuple[FloatArray, Any]:
    """Signs (n,) and the order (n,) in which coordinates take them."""
    return key.stream("hsqr|signs").signs(layout.n), key.stream("hsqr|order").permutation(layout.n)


def _picture(seen: BoolArray, word: bytes) -> dict[str, JsonValue]:
    """The code as it was found, for people and their readers, and how far it is from the one that was read."""
    rows = ["".join("#" if dark else "." for dark in row) for row in qr.draw(seen)]
    wrong = int((seen != qr.modules_of(word)).sum())
    return {"qr": rows, "qr_readable": qr.readable(seen, word), "modules_wrong": wrong}
