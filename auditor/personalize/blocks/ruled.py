"""Sampling in which a method says itself how each step's noise is estimated: conditions by stage, two models, pasting.

A rule takes latents (B, C, h, w) and a timestep and gives epsilon (B, C, h, w). Whatever walks a denoiser can walk a
:class:`Ruled` one, so that a method brings its rule and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from auditor.pipeline.components import Components
from auditor.pipeline.conditioning import Conditioning, encode_prompts
from auditor.pipeline.denoiser import Denoiser
from auditor.pipeline.sampling import StepHook, ddim_sample
from auditor.pipeline.schedule import Prediction

__all__ = ["Rule", "Ruled", "null_condition", "ruled_sample"]

Rule = Callable[[Tensor, int], Tensor]


class Ruled(Denoiser):
    """A denoiser that says what a rule says; conditions given to it are not looked at."""

    def __init__(self, base: Components, rule: Rule) -> None:
        super().__init__(base)
        self._rule = rule

    def predict(self, latents: Tensor, t: Tensor, condition: Conditioning) -> Prediction:
        """The rule's epsilon in all parameterisations; one timestep for all rows."""
        epsilon = self._rule(latents, int(t[0]))
        return Prediction.convert(epsilon, "epsilon", latents, t, self.schedule)


def ruled_sample(
    base: Components, noise: Tensor, rule: Rule, steps: int, on_step: StepHook | None = None
) -> Tensor:
    """DDIM with a rule from noise (B, C, h, w) to clean latents; see :func:`auditor.pipeline.sampling.ddim_sample`.

    ``on_step`` may change the latents it is given in place.
    """
    ignored = Conditioning(torch.empty(len(noise), 0, 0))
    return ddim_sample(Ruled(base, rule), noise, ignored, ignored, steps, 1.0, on_step)


@torch.no_grad()
def null_condition(base: Components, count: int) -> Conditioning:
    """What guidance runs against, ``count`` rows: the empty prompt, or zeros where the base wants those."""
    null = encode_prompts(base, base.tokenizers, [""] * count)
    if not base.zero_null:
        return null
    return Conditioning(
        torch.zeros_like(null.states), None if null.pooled is None else torch.zeros_like(null.pooled)
    )
