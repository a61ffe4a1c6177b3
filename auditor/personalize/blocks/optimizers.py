"""The optimisers that trainings may use, by name."""

from __future__ import annotations

from typing import Any

import torch

from auditor.errors import MissingExtra

__all__ = ["make_optimizer"]

_BETAS = (0.9, 0.99)


def make_optimizer(name: str, groups: list[dict[str, Any]], weight_decay: float) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter, ICLR 2019), its moments in float32 or in blocks of eight bits.

    Args:
        name: ``adamw``, or ``adamw8bit`` (Dettmers et al., ICLR 2022, arXiv 2110.02861).
        groups: as ``torch.optim`` takes them.
        weight_decay: of all groups.

    Raises:
        MissingExtra: bitsandbytes is not installed, or does not run here.
    """
    if name == "adamw":
        return torch.optim.AdamW(groups, betas=_BETAS, weight_decay=weight_decay, fused=True)
    try:
        from bitsandbytes.optim import AdamW8bit
    except (ImportError, OSError, RuntimeError) as error:
        raise MissingExtra(
            "the optimizer adamw8bit needs bitsandbytes: pip install 'personalized-model-auditor[8bit]'"
        ) from error
    eight_bit: torch.optim.Optimizer = AdamW8bit(groups, betas=_BETAS, weight_decay=weight_decay)
    return eight_bit
