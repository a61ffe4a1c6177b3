"""Injection at some steps of the sampler, which of them the key decides ("lambda sampling" of Safe-SD).

A sampler's step predicts clean latents; at an injected step they are replaced by those that carry the mark, and the
sampler goes on from there. The published model is trained to keep what was injected. One that is not takes most of it
off again as long as the noise is larger than the mark, so that the last step always injects, and the key decides the
others: what it hides is when the picture was bent, and detection does not rest on it.
"""

from __future__ import annotations

import math

from auditor.errors import UsageError
from watermark.keys import MasterKey

__all__ = ["SPAN", "injected_steps"]

SPAN = 0.6
"""Part of the steps, at the end, among which a key chooses; injection before that bends what is drawn."""


def injected_steps(key: MasterKey, steps: int, count: int, nonce: bytes = b"") -> frozenset[int]:
    """Which steps inject, 0 for the first.

    Args:
        key: the master key.
        steps: of the sampler.
        count: lambda, how many of them; 1 for the last alone.
        nonce: of the picture, for another choice in each.

    Raises:
        UsageError: none, or more than the last part of the steps has.
    """
    most = max(1, math.ceil(SPAN * steps))
    if not 1 <= count <= most:
        raise UsageError(f"lambda must lie between 1 and {most} with {steps} steps, and not be {count}")
    order = key.stream("safe_sd|steps", nonce).permutation(most - 1)
    return frozenset({steps - 1, *(steps - most + int(place) for place in order[: count - 1])})
