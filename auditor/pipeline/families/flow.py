"""How flow-matching samplers shift their noise levels with the size of the image."""

from __future__ import annotations

from typing import Any

__all__ = ["flow_shift"]


def flow_shift(config: Any, patches: int, max_shift: float) -> float:
    """The exponent mu of the shift: linear in the number of patches, through the two points that a scheduler names.

    Args:
        config: the scheduler's configuration; what it leaves open is 0.5 at 256 patches and ``max_shift`` at 4096.
        patches: length of the image's sequence.
        max_shift: the pipeline's value at the upper point.
    """
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    at_low, at_high = config.get("base_shift", 0.5), config.get("max_shift", max_shift)
    slope = (at_high - at_low) / (high - low)
    # In the order of operations of the library, so that both round alike.
    return float(patches * slope + (at_low - slope * low))
