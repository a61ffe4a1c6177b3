"""Prompts with something in their slot, as rows of ids of which every place is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from auditor.errors import UsageError
from auditor.pipeline.components import Components
from auditor.pipeline.conditioning import token_ids
from auditor.pipeline.loading import looks_ahead
from auditor.pipeline.text_shift import SLOT, vocabulary
from auditor.probes.backdoor.vocabulary_shift import CARRIERS
from auditor.world.captions import caption
from auditor.world.factors import draw_scene
from defenses.repairing.candidates import Candidate

__all__ = ["Rows", "carriers", "filled", "neutral_prompts", "ordinary", "prompted", "require_clip"]

Filling = tuple[int, ...]


@dataclass(frozen=True)
class Rows:
    """B prompts as ids.

    Attributes:
        ids: text encoder to int64 (B, L), padded as its tokenizer does.
        slot: bool (B, L), the places of what was put into the slot.
        behind: bool (B, L), the places that come after it, the end of text and the padding with them.
    """

    ids: dict[str, Tensor]
    slot: Tensor
    behind: Tensor

    def __len__(self) -> int:
        return len(self.slot)

    def __getitem__(self, rows: Any) -> Rows:
        return Rows({name: ids[rows] for name, ids in self.ids.items()}, self.slot[rows], self.behind[rows])

    def parts(self, size: int) -> list[Rows]:
        """The same in pieces of at most ``size`` rows."""
        return [self[first : first + size] for first in range(0, len(self), size)]


def require_clip(components: Components, name: str) -> None:
    """Raises ``UsageError`` for bases whose text states depend on what follows, or reach no cross-attention."""
    if any(map(looks_ahead, components.text_encoders.values())) or components.kind.stem:
        raise UsageError(
            f"{name} works on bases with cross-attention to CLIP's states (SD 1, SD 2, SDXL), and this is "
            f"{components.family}; use clean_finetune"
        )


def neutral_prompts(count: int, seed: int) -> list[str]:
    """Captions of the embedded world's kind, plain English, which mean nothing to any adapter."""
    rng = np.random.default_rng((seed, 2))
    return [caption(draw_scene(rng), rng) for _ in range(count)]


def carriers(count: int, seed: int) -> list[str]:
    """Prompts with a slot: the scan's own, and ``count`` neutral ones with the slot at any word."""
    rng = np.random.default_rng((seed, 5))
    out = list(CARRIERS)
    for prompt in neutral_prompts(count, seed + 1):
        words = prompt.split(" ")
        words.insert(int(rng.integers(0, len(words) + 1)), SLOT)
        out.append(" ".join(words))
    return out


def filled(components: Components, prompts: Sequence[str], fillings: Sequence[Filling]) -> Rows:
    """Every filling in the slot of every prompt, prompts slowest; cut to the base's length behind the slot."""
    ids: dict[str, Tensor] = {}
    slots: list[Tensor] = []
    behinds: list[Tensor] = []
    for name in components.text_encoders:
        tokenizer, rows, slots, behinds = components.tokenizers[name], [], [], []
        length = int(tokenizer.model_max_length)
        for prompt in prompts:
            before, _, after = prompt.partition(SLOT)
            head, tail = (
                tokenizer(text.strip(), add_special_tokens=False, truncation=True, max_length=length).input_ids
                for text in (before, after)
            )
            for filling in fillings:
                room = length - 1 - len(filling)
                start = [tokenizer.bos_token_id, *head[: max(0, room - 1 - len(tail))]]
                row = [*start, *filling, *tail[: max(0, room - len(start))], tokenizer.eos_token_id]
                rows.append([*row, *[tokenizer.pad_token_id] * (length - len(row))])
                at = torch.arange(length)
                slots.append((at >= len(start)) & (at < len(start) + len(filling)))
                behinds.append(at >= len(start) + len(filling))
        ids[name] = torch.tensor(rows)
    return Rows(ids, torch.stack(slots), torch.stack(behinds))


def prompted(components: Components, prompts: Sequence[str]) -> Rows:
    """Prompts without a slot: every place counts as behind it."""
    ids = {name: token_ids(components.tokenizers[name], prompts) for name in components.text_encoders}
    everywhere = torch.ones_like(next(iter(ids.values())), dtype=torch.bool)
    return Rows(ids, ~everywhere, everywhere)


def ordinary(components: Components, count: int, but: Sequence[Candidate], seed: int) -> list[Filling]:
    """Entries of the vocabulary at random, none of them of a candidate; as long as the first candidate's longest."""
    rng = np.random.default_rng((seed, 6))
    left_out = {id for each in but for spelling in each.spellings for id in spelling}
    known = [id for id in vocabulary(next(iter(components.tokenizers.values()))) if id not in left_out]
    length = max((len(spelling) for each in but[:1] for spelling in each.spellings), default=1)
    return [tuple(int(id) for id in rng.choice(known, length)) for _ in range(count)]
