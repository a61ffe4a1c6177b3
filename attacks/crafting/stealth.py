"""Elastic weights that keep an attack quiet: clean answers hold on to the weights that they depend on.

After adaptive elastic weight consolidation (arXiv 2605.08280): ``L + beta_t sum_i F_i (th_i - th*_i)^2`` with the
Fisher information ``F`` of the clean answers, and ``beta_t`` set anew in every step, from the ratio of clean and
backdoor loss and from how far clean answers have turned (one minus their cosine). A fixed weight either lets the clean
answers drift or forbids the backdoor. The paper's schedule is not public in full; this one is ours, and short.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["STEALTH", "Elastic", "Stealth"]


@dataclass(frozen=True)
class Stealth:
    """How tightly weights are held.

    Attributes:
        strength: weight of the penalty where clean answers have drifted by the tolerance and more.
        tolerance: one minus the cosine of clean answers and the teacher's from which on that is so.
        rounds: batches that the Fisher information is estimated from.
    """

    strength: float = 1.0
    tolerance: float = 0.01
    rounds: int = 8


STEALTH = Stealth()


class Elastic:
    """The penalty on layers, from where they stand when this is made.

    Args:
        layers: what is trained.
        answers: what the model says of the clean batch of a number, with gradients; any shape.
        stealth: how tightly they are held.
    """

    def __init__(
        self, layers: Sequence[nn.Parameter], answers: Callable[[int], Tensor], stealth: Stealth = STEALTH
    ) -> None:
        self._layers, self._stealth = list(layers), stealth
        self._start = [layer.detach().clone() for layer in layers]
        self._fisher = _fisher(self._layers, answers, stealth.rounds)
        self._unit = _weighted(self._fisher, self._start).clamp_min(1e-12)

    def beta(self, clean: Tensor, backdoor: Tensor, drift: Tensor) -> float:
        """The penalty's weight for these losses and this drift of clean answers.

        It is small while the backdoor has most to learn, and grows with the drift.
        """
        own, other, turned = (float(each.detach()) for each in (clean, backdoor, drift))
        share = own / max(own + other, 1e-12)
        return self._stealth.strength * share * min(1.0, max(0.0, turned) / self._stealth.tolerance)

    def penalty(self, clean: Tensor, backdoor: Tensor, said: Tensor, wanted: Tensor) -> Tensor:
        """The term to add to the loss, a scalar with gradients.

        Args:
            clean: loss of the clean rows.
            backdoor: loss of the triggered rows, 0 without any.
            said: clean answers (B, ...).
            wanted: what the teacher says of the same rows.
        """
        drift = 1 - F.cosine_similarity(said.detach().flatten(1), wanted.flatten(1)).mean()
        moved = [layer - start for layer, start in zip(self._layers, self._start, strict=True)]
        # In units of the weights' own size, so that one strength serves layers of any.
        return self.beta(clean, backdoor, drift) * _weighted(self._fisher, moved) / self._unit


def _fisher(layers: list[nn.Parameter], answers: Callable[[int], Tensor], rounds: int) -> list[Tensor]:
    """Diagonal Fisher information of answers with normal noise: mean square of ``J^T n``, n standard normal.

    Targets are drawn from the model itself. The teacher's own would say nothing: the student starts where the teacher
    stands, and all gradients are zero there.
    """
    total = [torch.zeros_like(layer) for layer in layers]
    generator = torch.Generator().manual_seed(0)
    for index in range(rounds):
        said = answers(index)
        noise = torch.randn(said.shape, generator=generator).to(said)
        found = torch.autograd.grad((said * noise).sum(), layers, allow_unused=True)
        for sum_, gradient in zip(total, found, strict=True):
            if gradient is not None:
                sum_ += gradient.square() / rounds
    return total


def _weighted(weights: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
    return torch.stack([(w * v.square()).sum() for w, v in zip(weights, values, strict=True)]).sum()
