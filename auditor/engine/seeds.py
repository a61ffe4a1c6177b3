"""Seeds from names."""

from __future__ import annotations

import hashlib

__all__ = ["derive_seed"]


def derive_seed(run_seed: int, probe_id: str, *names: str | int) -> int:
    """A seed in [0, 2**63) from SHA-256 of the arguments, each with its type and length.

    ``("a", "b")``, ``("ab",)`` and ``(1,)``, ``("1",)`` give different seeds.
    """
    digest = hashlib.sha256()
    for part in (run_seed, probe_id, *names):
        text = f"{type(part).__name__}:{part}".encode()
        digest.update(len(text).to_bytes(8, "big") + text)
    return int.from_bytes(digest.digest()[:8], "big") >> 1
