"""A run without a directory, for scoring many subjects in one process."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from auditor.contracts import JsonValue
from auditor.engine import derive_seed
from reports.model import Evidence, Result

__all__ = ["MemoryRun"]


class MemoryRun:
    """Implements :class:`auditor.contracts.Run`; seeds are those of an audit with the same seed and probe."""

    def __init__(self, probe: str, seed: int = 0, alpha: float = 0.05) -> None:
        self.alpha = alpha
        self.pool = None
        self._probe, self._seed = probe, seed

    def seed(self, *names: str | int) -> int:
        """See the protocol."""
        return derive_seed(self._seed, self._probe, *names)

    def rng(self, *names: str | int) -> np.random.Generator:
        """See the protocol."""
        return np.random.default_rng(self.seed(*names))

    def unit(self, name: str, work: Callable[[], JsonValue]) -> JsonValue:
        """Does the work; nothing is stored."""
        return work()

    def evidence(
        self, name: str, data: bytes, media_type: str, caption: str = "", sensitive: bool = False
    ) -> Evidence:
        """Hashes the bytes and drops them."""
        digest = hashlib.sha256(data).hexdigest()
        return Evidence(name=name, sha256=digest, media_type=media_type, caption=caption, sensitive=sensitive)

    def results_of(self, probe_id: str) -> Sequence[Result]:
        """Nothing was run before."""
        return ()

    def progress(self, done: int, total: int, label: str = "") -> None:
        """Silent."""
