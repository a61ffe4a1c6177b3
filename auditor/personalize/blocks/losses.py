"""The loss that most methods start from: denoise one's own pictures under their prompts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from auditor.personalize.blocks.denoising import denoising_error, draw, mean_square
from auditor.personalize.blocks.examples import Examples
from auditor.personalize.blocks.optimise import Step
from auditor.pipeline.components import Components
from auditor.pipeline.conditioning import encode_prompts

__all__ = ["denoising_loss"]


def denoising_loss(base: Components, examples: Examples, batch: int) -> Callable[[Step], Tensor]:
    """``||eps - eps_th(z_t, t, prompt)||^2`` of ``batch`` examples drawn anew in every step.

    Prompts are encoded once, by the frozen text encoder.
    """
    with torch.no_grad():
        conditions = encode_prompts(base, base.tokenizers, examples.prompts)

    def loss_of(step: Step) -> Tensor:
        drawn = draw(base, examples.latents, batch, step.generator)
        return mean_square(denoising_error(base, drawn, conditions[drawn.rows])).mean()

    return loss_of
