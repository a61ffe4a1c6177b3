"""Signs that key and nonce choose and that carry a word, each bit many times over; read with a log of nonces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from watermark.detection import Detection, Method
from watermark.engine.mixture import word_evidence
from watermark.engine.sums import Agreement, agreement
from watermark.keys import MasterKey
from watermark.scheme import signs_of

__all__ = ["LoggedSigns"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class LoggedSigns:
    """The layout of a sign code.

    Attributes:
        scheme: id of the scheme.
        n: coordinates.
        bits: of payload, a multiple of 8, 8 at least.
        floor: the smallest p-value of one look.
        prefix: of what the streams of signs and places are derived for.
    """

    scheme: str
    n: int
    bits: int
    floor: float
    prefix: str = ""

    def written(self, key: MasterKey, nonce: bytes, word: bytes) -> FloatArray:
        """The sign of every coordinate (n,)."""
        signs, order = self._secrets(key, nonce)
        signs[: self.bits * self._copies] *= np.repeat(signs_of(word), self._copies)
        out = np.empty(self.n)
        out[order] = signs
        return out

    def order(self, key: MasterKey, nonce: bytes) -> NDArray[np.intp]:
        """The order (n,) in which coordinates take their signs."""
        return self._secrets(key, nonce)[1]

    def detect(
        self, key: MasterKey, nonces: Sequence[bytes], values: FloatArray, given: bytes | None, seed: int
    ) -> Detection:
        """The likeliest of the nonces; each is a look.

        Args:
            key: the master key.
            nonces: one at least.
            values: what a picture holds (n,), of unit mean square.
            given: the word, where it is known.
            seed: of the random keys of a Monte Carlo p-value.
        """
        tried = dict.fromkeys(nonces)
        best = max(tried, key=lambda nonce: self._strength(key, nonce, values, given))
        return self._tested(key, best, values, given, seed).corrected(len(tried))

    def fingerprints(
        self, values: FloatArray, key: MasterKey, nonce: bytes, payloads: Sequence[bytes]
    ) -> FloatArray:
        """One soft value a bit (U, bits); see :meth:`watermark.scheme.LatentScheme.fingerprints`."""
        carrying, _ = self._agreeing(key, nonce, values)
        return np.stack([signs_of(payload) * carrying.sum(axis=1) for payload in payloads])

    def _tested(
        self, key: MasterKey, nonce: bytes, values: FloatArray, given: bytes | None, seed: int
    ) -> Detection:
        carrying, known = self._agreeing(key, nonce, values)
        tails: dict[Method, float] = {}
        if given is None:
            evidence = word_evidence(carrying, known)
            word, statistic = np.packbits(evidence.soft > 0).tobytes(), evidence.log_e
            p, method = evidence.settled(seed)
        else:
            sums = _known_word(carrying, known, given)
            word, statistic = given, sums.deviations
            p, method = sums.settled(seed)
            tails = {Method.CERTIFIED: sums.bound, Method.SADDLE_POINT: sums.approximate}
        return Detection(
            scheme=self.scheme,
            p_value=p,
            method=method,
            statistic=statistic,
            n=self.n,
            floor=self.floor,
            nonce=nonce,
            payload=word,
            tails=tails,
        )

    def _strength(self, key: MasterKey, nonce: bytes, values: FloatArray, given: bytes | None) -> float:
        """What is larger for the likelier nonce."""
        carrying, known = self._agreeing(key, nonce, values)
        if given is None:
            return word_evidence(carrying, known).log_e
        return _known_word(carrying, known, given).deviations

    def _agreeing(self, key: MasterKey, nonce: bytes, values: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Signs times values: (bits, copies), and those that are left over."""
        signs, order = self._secrets(key, nonce)
        agreeing, split = signs * values[order], self.bits * self._copies
        return agreeing[:split].reshape(self.bits, -1), agreeing[split:]

    @property
    def _copies(self) -> int:
        """Copies of each bit: as many as fit, an odd number, so that no vote is ever tied."""
        most = self.n // self.bits
        return most - (most % 2 == 0)

    def _secrets(self, key: MasterKey, nonce: bytes) -> tuple[FloatArray, NDArray[np.intp]]:
        """Signs (n,) and the order (n,) in which coordinates take them."""
        signs = key.stream(f"{self.prefix}signs", nonce).signs(self.n)
        return signs, key.stream(f"{self.prefix}order", nonce).permutation(self.n)


def _known_word(carrying: FloatArray, known: FloatArray, word: bytes) -> Agreement:
    return agreement(np.concatenate([(carrying * signs_of(word)[:, None]).ravel(), known]))
