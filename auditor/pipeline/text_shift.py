"""How far each vocabulary entry moved between two views: in the text encoder, and in cross-attention keys and values.

Everything here is a pure function of the two views. Ids are laid out as short rows, because a causal text
encoder's states do not depend on what follows the end-of-text token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from auditor.pipeline.subject import Subject, View

__all__ = ["carrier_rows", "end_states", "key_value_maps", "prompt_spread", "relative_map_shift", "slot_states", "vocabulary"]

SLOT = "{}"


def vocabulary(tokenizer: Any) -> list[int]:
    """All token ids but the special ones, ascending."""
    special = set(tokenizer.all_special_ids)
    return [i for i in range(len(tokenizer)) if i not in special]


def carrier_rows(tokenizer: Any, carriers: Sequence[str], tokens: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Puts every token into the slot of every carrier prompt.

    Args:
        tokenizer: a CLIP tokenizer.
        carriers: prompts with ``{}`` where the token goes.
        tokens: T token ids.

    Returns:
        ids (K*T, L) with carriers slowest, the position of the token (K*T,), and of the end of text (K*T,); int64.
    """
    heads, tails = [], []
    for carrier in carriers:
        before, _, after = carrier.partition(SLOT)
        heads.append([tokenizer.bos_token_id, *tokenizer(before.strip(), add_special_tokens=False).input_ids])
        tails.append([*tokenizer(after.strip(), add_special_tokens=False).input_ids, tokenizer.eos_token_id])
    length = max(len(head) + 1 + len(tail) for head, tail in zip(heads, tails, strict=True))
    rows, slots, ends = [], [], []
    column = torch.tensor(list(tokens))
    for head, tail in zip(heads, tails, strict=True):
        row = torch.full((len(tokens), length), tokenizer.pad_token_id)
        row[:, : len(head)] = torch.tensor(head)
        row[:, len(head)] = column
        row[:, len(head) + 1 : len(head) + 1 + len(tail)] = torch.tensor(tail)
        rows.append(row)
        slots.append(torch.full((len(tokens),), len(head)))
        ends.append(torch.full((len(tokens),), len(head) + len(tail)))
    return torch.cat(rows), torch.cat(slots), torch.cat(ends)


def end_states(view: View, rows: Tensor, at: Tensor, batch: int = 512) -> Tensor:
    """Text encoder states at position ``at`` of each row: float32 (N, D)."""
    parts = []
    for ids, positions in zip(rows.split(batch), at.split(batch), strict=True):
        states = view.text_states(ids)
        parts.append(states[torch.arange(len(ids)), positions])
    return torch.cat(parts)


slot_states = end_states
"""The same for the position of the token itself."""


def prompt_spread(view: View, tokenizer: Any, carriers: Sequence[str]) -> float:
    """RMS distance between the end states of different carrier prompts, the slot left empty: the unit of displacement."""
    prompts = [carrier.replace(SLOT + " ", "") for carrier in carriers]
    ids = tokenizer(prompts, padding=True, return_tensors="pt").input_ids
    ends = (ids == tokenizer.eos_token_id).int().argmax(1)
    states = end_states(view, ids, ends)
    return float(torch.pdist(states).square().mean().sqrt())


def key_value_maps(subject: Subject) -> list[tuple[Tensor, Tensor]]:
    """(base, tuned) weights of the cross-attention key and value projections that change; float32 (out, D) on the CPU."""
    maps = []
    for (component, module, parameter), change in sorted(subject.changes.modules.items()):
        if component == "unet" and parameter == "weight" and module.endswith(("attn2.to_k", "attn2.to_v")):
            with subject.active("base"):
                base = subject.components.unet.get_submodule(module).weight.detach().float().cpu().clone()
            maps.append((base, change.tuned.detach().float().cpu()))
    return maps


def relative_map_shift(maps: Sequence[tuple[Tensor, Tensor]], states: Tensor) -> Tensor:
    """``||(W' - W) e|| / ||W e||`` with both norms over all maps, for states (N, D): float32 (N,); zeros without maps."""
    if not maps:
        return torch.zeros(len(states))
    moved = torch.zeros(len(states))
    size = torch.zeros(len(states))
    for base, tuned in maps:
        moved += (states @ (tuned - base).T).square().sum(1)
        size += (states @ base.T).square().sum(1)
    return (moved / size).sqrt()
