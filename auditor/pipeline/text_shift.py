"""How far vocabulary entries move between two views: in the text encoders, and in cross-attention keys and values.

Ids are laid out as short rows, because a causal text encoder's states do not depend on what follows the
end-of-text token. Keys and values are looked at through quadratic forms: summed over all maps,
``||W e||^2 = e^T (sum W^T W) e``, so that the cost of a token does not grow with the number of maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from auditor.pipeline.conditioning import Conditioning

if TYPE_CHECKING:
    from auditor.pipeline.components import Components
    from auditor.pipeline.subject import Subject, View

__all__ = [
    "SLOT",
    "KeyValueShift",
    "TokenStates",
    "carrier_rows",
    "key_value_shift",
    "nearest",
    "prompt_units",
    "token_states",
    "vocabulary",
]

SLOT = "{}"
Maps = list[tuple[str, Tensor, Tensor]]


@dataclass(frozen=True)
class TokenStates:
    """What N rows of ids become.

    Attributes:
        slot: states at the token's own place, as cross-attention gets them, float32 (N, D).
        end: states at the end of text, followed by the pooled vector where the family has one, each block
            divided by its unit (:func:`prompt_units`), float32 (N, E).
    """

    slot: Tensor
    end: Tensor


def vocabulary(tokenizer: Any) -> list[int]:
    """All token ids but the special ones, ascending."""
    special = set(tokenizer.all_special_ids)
    return [i for i in range(len(tokenizer)) if i not in special]


def carrier_rows(
    tokenizer: Any, carriers: Sequence[str], tokens: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
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
        # Padded with the end of text: a row has to mean the same to encoders that pad differently.
        row = torch.full((len(tokens), length), tokenizer.eos_token_id)
        row[:, : len(head)] = torch.tensor(head)
        row[:, len(head)] = column
        row[:, len(head) + 1 : len(head) + 1 + len(tail)] = torch.tensor(tail)
        rows.append(row)
        slots.append(torch.full((len(tokens),), len(head)))
        ends.append(torch.full((len(tokens),), len(head) + len(tail)))
    return torch.cat(rows), torch.cat(slots), torch.cat(ends)


def prompt_units(view: View, tokenizer: Any, carriers: Sequence[str]) -> list[float]:
    """The unit of displacement of each block of an end state.

    It is the RMS distance between the end states of different carrier prompts, the slot left empty. Blocks are the
    text encoders in their order, and the pooled vector where the family has one.
    """
    rows, _, ends = carrier_rows(tokenizer, [carrier.replace(SLOT + " ", "") for carrier in carriers], [0])
    # Without a slot the token came last: the end of text goes where it was put.
    rows[torch.arange(len(rows)), ends - 1] = tokenizer.eos_token_id
    condition = view.text_states(rows)
    end = _end_blocks(condition, ends - 1, view.components)
    return [max(float(torch.pdist(block).square().mean().sqrt()), 1e-9) for block in end]


def token_states(
    view: View, rows: Tensor, slots: Tensor, ends: Tensor, units: Sequence[float], batch: int = 512
) -> TokenStates:
    """States of each row (:func:`carrier_rows`); those of the base are remembered with the base."""
    if view.name == "base":
        key = ("token states", rows.shape, *(t.numpy().tobytes() for t in (rows, slots, ends)), *units)
        return view.components.remember(key, lambda: _token_states(view, rows, slots, ends, units, batch))
    return _token_states(view, rows, slots, ends, units, batch)


def _token_states(
    view: View, rows: Tensor, slots: Tensor, ends: Tensor, units: Sequence[float], batch: int
) -> TokenStates:
    slot, end = [], []
    for ids, at, last in zip(*(torch.split(each, batch) for each in (rows, slots, ends)), strict=True):
        condition = view.text_states(ids)
        slot.append(condition.states[torch.arange(len(ids)), at])
        blocks = _end_blocks(condition, last, view.components)
        end.append(torch.cat([block / unit for block, unit in zip(blocks, units, strict=True)], dim=1))
    return TokenStates(torch.cat(slot), torch.cat(end))


def _end_blocks(condition: Conditioning, at: Tensor, components: Components) -> list[Tensor]:
    states = condition.states[torch.arange(len(condition)), at]
    widths = [int(encoder.config.hidden_size) for encoder in components.text_encoders.values()]
    return [*torch.split(states, widths, dim=1), *([] if condition.pooled is None else [condition.pooled])]


@dataclass(frozen=True)
class KeyValueShift:
    """All cross-attention key and value maps that change, W to W + D, as quadratic forms; float64 (dim, dim).

    Attributes:
        base: sum of ``W^T W``.
        moved: sum of ``D^T D``.
        cross: sum of ``D^T W``.
    """

    base: Tensor
    moved: Tensor
    cross: Tensor

    def relative(self, states: Tensor) -> Tensor:
        """``||D e|| / ||W e||``, both norms over all maps, for states (N, dim): float64 (N,)."""
        e = states.double()
        return (_form(e, self.moved).clamp_min(0) / _form(e, self.base)).sqrt()

    def nearest(self, tuned: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """For each tuned state (N, dim) the base state among ``known`` (M, dim) with the nearest keys and values.

        Returns:
            int64 (N,) and the distance ``||(W + D) a - W b||``, float64 (N,), in units of the spread of known ones.
        """
        a, b = tuned.double(), known.double()
        away = _form(a, self.base)[:, None] + _form(b, self.base)[None] - 2 * (a @ self.base) @ b.T
        shifted = a @ self.cross
        square = away + 2 * ((shifted * a).sum(1)[:, None] - shifted @ b.T) + _form(a, self.moved)[:, None]
        unit = _form(b - b.mean(0), self.base).mean().sqrt()
        least, index = square.clamp_min(0).min(1)
        return index, least.sqrt() / unit.clamp_min(1e-12)


def key_value_shift(subject: Subject) -> KeyValueShift | None:
    """The quadratic forms of a subject's changed key and value maps; None where none changes."""
    maps = _changed_maps(subject)
    if not maps:
        return None
    names = tuple(name for name, _, _ in maps)
    base = subject.components.remember(
        ("key and value maps", names), lambda: _summed([(weight, weight) for _, weight, _ in maps])
    )
    return KeyValueShift(
        base, _summed([(d, d) for _, _, d in maps]), _summed([(delta, weight) for _, weight, delta in maps])
    )


def _changed_maps(subject: Subject) -> Maps:
    maps: Maps = []
    with subject.active("base"):
        for (component, module, parameter), change in sorted(subject.changes.modules.items()):
            if (
                component == "unet"
                and parameter == "weight"
                and module.endswith(("attn2.to_k", "attn2.to_v"))
            ):
                weight = subject.components.unet.get_submodule(module).weight.detach().float()
                maps.append((module, weight, change.tuned.detach().float() - weight))
    return maps


def _summed(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    total = torch.zeros(pairs[0][0].shape[1], pairs[0][1].shape[1], dtype=torch.float64)
    for left, right in pairs:
        total += (left.T @ right).double().cpu()
    return total


def _form(states: Tensor, matrix: Tensor) -> Tensor:
    return ((states @ matrix) * states).sum(1)


def nearest(points: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """For each point (N, E) the row of ``known`` (M, E) nearest to it: int64 (N,), and the distance, (N,)."""
    index = torch.cdist(points, known).argmin(1)
    # Measured again: the fast product form of the distances loses small ones to cancellation.
    return index, (points - known[index]).norm(dim=1)
