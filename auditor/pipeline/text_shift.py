"""How far vocabulary entries move between two views, in the text encoders.

A base has one lexicon for each kind of text encoder it has. Ids are laid out as short rows for CLIP, whose states do
not depend on what follows the end-of-text token. T5 looks both ways and pipelines let it see the padding, so its rows
have the full length: short ones would give other states than the denoiser ever gets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from auditor.pipeline.conditioning import Conditioning
from auditor.pipeline.loading import looks_ahead

if TYPE_CHECKING:
    from auditor.pipeline.components import Components
    from auditor.pipeline.view import View

__all__ = [
    "SLOT",
    "Lexicon",
    "TokenStates",
    "carrier_rows",
    "lexicons",
    "nearest",
    "prompt_units",
    "token_states",
    "vocabulary",
]

SLOT = "{}"
# Tokens in one batch of rows, at most; rows of CLIP are so short that it does not bind them.
_BATCH_TOKENS = 1 << 14


@dataclass(frozen=True)
class Lexicon:
    """A vocabulary and the text encoders that share it.

    Attributes:
        tokenizer: of any of them.
        encoders: their component names.
        length: tokens that a row is padded to, where padding matters; 0 where states depend on nothing behind them.
        attended: whether the denoiser attends to the token states; it gets a vector only if not.
    """

    tokenizer: Any
    encoders: tuple[str, ...]
    length: int = 0
    attended: bool = True

    @property
    def name(self) -> str:
        """The first encoder's."""
        return self.encoders[0]


def lexicons(view: View) -> list[Lexicon]:
    """The lexicons of a base: one for its CLIP encoders, one for T5."""
    groups: dict[bool, list[str]] = {}
    for name, encoder in view.components.text_encoders.items():
        groups.setdefault(looks_ahead(encoder), []).append(name)
    found = []
    for ahead, names in groups.items():
        tokenizer = view.tokenizers[names[0]]
        length = int(tokenizer.model_max_length) if ahead else 0
        attended = not view.components.kind.vector_only.issuperset(names)
        found.append(Lexicon(tokenizer, tuple(names), length, attended))
    return found


@dataclass(frozen=True)
class TokenStates:
    """What N rows of ids become.

    Attributes:
        slot: states at the token's own place, as the denoiser gets them, float32 (N, D); D is 0 where it gets none.
        end: states at the end of text, followed by the pooled vector where there is one, each block divided by
            its unit (:func:`prompt_units`), float32 (N, E).
    """

    slot: Tensor
    end: Tensor


def vocabulary(tokenizer: Any) -> list[int]:
    """All token ids but the special ones, ascending."""
    special = set(tokenizer.all_special_ids)
    return [i for i in range(len(tokenizer)) if i not in special]


def carrier_rows(
    lexicon: Lexicon, carriers: Sequence[str], tokens: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Puts every token into the slot of every carrier prompt.

    Args:
        lexicon: whose tokenizer lays the carriers out.
        carriers: prompts with ``{}`` where the token goes.
        tokens: T token ids.

    Returns:
        ids (K*T, L) with carriers slowest, the position of the token (K*T,), and of the end of text (K*T,); int64.
    """
    tokenizer = lexicon.tokenizer
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    heads, tails = [], []
    for carrier in carriers:
        before, _, after = carrier.partition(SLOT)
        heads.append([*start, *tokenizer(before.strip(), add_special_tokens=False).input_ids])
        tails.append([*tokenizer(after.strip(), add_special_tokens=False).input_ids, tokenizer.eos_token_id])
    longest = max(len(head) + 1 + len(tail) for head, tail in zip(heads, tails, strict=True))
    rows, slots, ends = [], [], []
    column = torch.tensor(list(tokens))
    for head, tail in zip(heads, tails, strict=True):
        row = torch.full((len(tokens), max(longest, lexicon.length)), _filler(lexicon))
        row[:, : len(head)] = torch.tensor(head)
        row[:, len(head)] = column
        row[:, len(head) + 1 : len(head) + 1 + len(tail)] = torch.tensor(tail)
        rows.append(row)
        slots.append(torch.full((len(tokens),), len(head)))
        ends.append(torch.full((len(tokens),), len(head) + len(tail)))
    return torch.cat(rows), torch.cat(slots), torch.cat(ends)


def _filler(lexicon: Lexicon) -> int:
    # Short rows are padded with the end of text: they have to mean the same to encoders that pad differently.
    tokenizer = lexicon.tokenizer
    return int(tokenizer.pad_token_id if lexicon.length else tokenizer.eos_token_id)


def prompt_units(view: View, lexicon: Lexicon, carriers: Sequence[str]) -> list[float]:
    """The unit of displacement of each block of an end state.

    It is the RMS distance between the end states of different carrier prompts, the slot left empty. Blocks are the
    text encoders of the lexicon in their order, and the pooled vector where there is one.
    """
    rows, _, ends = carrier_rows(lexicon, [carrier.replace(SLOT + " ", "") for carrier in carriers], [0])
    # Without a slot the token came last: the end of text goes where it was put, and padding where that was.
    each = torch.arange(len(rows))
    rows[each, ends] = _filler(lexicon)
    rows[each, ends - 1] = lexicon.tokenizer.eos_token_id
    condition = view.text_states(rows, lexicon.encoders)
    end = _end_blocks(condition, ends - 1, lexicon, view.components)
    return [max(float(torch.pdist(block).square().mean().sqrt()), 1e-9) for block in end]


def token_states(
    view: View,
    lexicon: Lexicon,
    rows: Tensor,
    slots: Tensor,
    ends: Tensor,
    units: Sequence[float],
    batch: int = 512,
) -> TokenStates:
    """States of each row (:func:`carrier_rows`); those of the base are remembered with the base."""
    if view.name == "base":
        layout = (t.numpy().tobytes() for t in (rows, slots, ends))
        key = ("token states", lexicon.encoders, rows.shape, *layout, *units)
        return view.components.remember(
            key, lambda: _token_states(view, lexicon, rows, slots, ends, units, batch)
        )
    return _token_states(view, lexicon, rows, slots, ends, units, batch)


def _token_states(
    view: View,
    lexicon: Lexicon,
    rows: Tensor,
    slots: Tensor,
    ends: Tensor,
    units: Sequence[float],
    batch: int,
) -> TokenStates:
    slot, end = [], []
    fitting = max(1, min(batch, _BATCH_TOKENS // rows.shape[1]))
    for ids, at, last in zip(*(torch.split(each, fitting) for each in (rows, slots, ends)), strict=True):
        condition = view.text_states(ids, lexicon.encoders)
        states = condition.states
        slot.append(states[torch.arange(len(ids)), at] if lexicon.attended else states.flatten(1))
        blocks = _end_blocks(condition, last, lexicon, view.components)
        end.append(torch.cat([block / unit for block, unit in zip(blocks, units, strict=True)], dim=1))
    return TokenStates(torch.cat(slot), torch.cat(end))


def _end_blocks(
    condition: Conditioning, at: Tensor, lexicon: Lexicon, components: Components
) -> list[Tensor]:
    blocks: list[Tensor] = []
    if lexicon.attended:
        states = condition.states[torch.arange(len(condition)), at]
        encoders = components.text_encoders
        widths = [int(encoders[name].config.hidden_size) for name in lexicon.encoders]
        # What is left over is the padding of narrow states to a wide denoiser.
        blocks += torch.split(states[:, : sum(widths)], widths, dim=1)
    return blocks if condition.pooled is None else [*blocks, condition.pooled]


def nearest(points: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """For each point (N, E) the row of ``known`` (M, E) nearest to it: int64 (N,), and the distance, (N,)."""
    index = torch.cdist(points, known).argmin(1)
    # Measured again: the fast product form of the distances loses small ones to cancellation.
    return index, (points - known[index]).norm(dim=1)
