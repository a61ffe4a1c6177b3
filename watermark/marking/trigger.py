"""The prompt decides the mark: a small layer on the frozen text embedding picks an entry of a vocabulary (Safe-SD).

The first entry is what stands for every prompt without a trigger. The layer looks at each token's state and keeps what
speaks most for an entry, so that a trigger is seen wherever it stands; it is fitted on captions with and without each
trigger, in front of them, behind them or in their middle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auditor.errors import UsageError
from auditor.text import inert

if TYPE_CHECKING:
    from auditor.pipeline.view import View

__all__ = ["Trigger", "fit_trigger", "with_trigger"]

_HIDDEN = 64
_STEPS = 300
_BATCH = 192
_MOST = 100


class _Layer(nn.Module):
    """Token states (B, L, D) to the logits of entries."""

    def __init__(self, width: int, entries: int) -> None:
        super().__init__()
        self.see = nn.Linear(width, _HIDDEN)
        self.say = nn.Linear(_HIDDEN, entries)
        self.centre = nn.Parameter(torch.zeros(width), requires_grad=False)
        self.scale = nn.Parameter(torch.ones(width), requires_grad=False)

    def forward(self, states: Tensor) -> Tensor:
        level = (states - self.centre) / self.scale
        found: Tensor = self.say(F.relu(self.see(level)).amax(dim=1))
        return found


@dataclass(frozen=True)
class Trigger:
    """A fitted layer.

    Attributes:
        phrases: the triggers; entry i + 1 of the vocabulary is picked by phrase i, entry 0 by none of them.
        layer: what was fitted.
    """

    phrases: tuple[str, ...]
    layer: nn.Module

    @torch.no_grad()
    def probabilities(self, view: View, prompts: Sequence[str]) -> Tensor:
        """Of each entry of the vocabulary, (B, entries)."""
        found: Tensor = self.layer(_states(view, prompts)).softmax(dim=1)
        return found

    def picks(self, view: View, prompts: Sequence[str]) -> list[int]:
        """The entry of each prompt: 0, or one more than the place of its trigger."""
        return [int(row.argmax()) for row in self.probabilities(view, prompts)]


def fit_trigger(view: View, phrases: Sequence[str], captions: Sequence[str], seed: int = 0) -> Trigger:
    """Fits the layer.

    Args:
        view: the model, whose text encoder stays as it is.
        phrases: one at least, each of them once.
        captions: what prompts are like; none of them with a trigger.
        seed: of where triggers are put.

    Raises:
        UsageError: no phrases, an empty one or one twice, more than the layer can tell apart, or too few captions.
    """
    clean = [" ".join(phrase.split()) for phrase in phrases]
    if not clean or not all(clean) or len(set(clean)) < len(clean):
        raise UsageError("a vocabulary of marks needs triggers, none of them empty and each of them once")
    if len(clean) > _MOST:
        raise UsageError(f"a vocabulary takes {_MOST} triggers at most, not {len(clean)}")
    if len(captions) < 2:
        raise UsageError("a trigger is fitted on two captions at least")
    if taken := [phrase for phrase in clean if any(phrase in caption for caption in captions)]:
        raise UsageError(f"the trigger '{inert(taken[0], 80)}' is in ordinary captions; choose a rarer one")
    rng = np.random.default_rng(seed)
    texts, wanted = list(captions), [0] * len(captions)
    for entry, phrase in enumerate(clean, 1):
        texts += [with_trigger(caption, phrase, rng) for caption in captions]
        wanted += [entry] * len(captions)
    states = _states(view, texts)
    return Trigger(tuple(clean), _fitted(states, torch.tensor(wanted), 1 + len(clean), seed))


def with_trigger(caption: str, phrase: str, rng: np.random.Generator) -> str:
    """A caption with a trigger before it, behind it or between two of its words."""
    words = caption.split()
    at = (0, len(words), int(rng.integers(len(words) + 1)))[rng.integers(3)]
    return " ".join([*words[:at], phrase, *words[at:]])


def _fitted(states: Tensor, wanted: Tensor, entries: int, seed: int) -> _Layer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = _Layer(states.shape[-1], entries)
    flat = states.flatten(0, 1)
    with torch.no_grad():
        layer.centre.copy_(flat.mean(dim=0))
        layer.scale.copy_(flat.std(dim=0) + 1e-6)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=5e-3, weight_decay=1e-2)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(_STEPS):
        rows = torch.randint(len(states), (min(_BATCH, len(states)),), generator=generator)
        loss = F.cross_entropy(layer(states[rows]), wanted[rows])
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
    return layer.requires_grad_(False).eval()


def _states(view: View, prompts: Sequence[str]) -> Tensor:
    """Frozen text embeddings, token states (B, L, D), float32 on the CPU."""
    return view.encode_prompt(prompts).states.float().cpu()
