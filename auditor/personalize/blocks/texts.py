"""Prompts of a batch, each encoded once: rows that say the same share one pass through the text encoder."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from auditor.pipeline.components import Components
from auditor.pipeline.conditioning import Conditioning, encode_prompts

__all__ = ["distinct", "encode_distinct"]

T = TypeVar("T", bound=Hashable)


def distinct(values: Sequence[T]) -> tuple[list[T], Tensor]:
    """Each value once, in the order in which they come, and for each of B values its place among them, int64 (B,)."""
    places: dict[T, int] = {}
    rows = [places.setdefault(value, len(places)) for value in values]
    return list(places), torch.tensor(rows, dtype=torch.long)


def encode_distinct(base: Components, prompts: Sequence[str]) -> Conditioning:
    """What :func:`auditor.pipeline.conditioning.encode_prompts` says of B prompts, each encoded once."""
    once, rows = distinct(prompts)
    return encode_prompts(base, base.tokenizers, once)[rows]
