"""Two sets of pictures in one evaluation: ``L = L(examples) + w L(second set)``.

The second set is what DreamBooth calls the class prior (the frozen model's own pictures) and StyleForge the auxiliary
pictures (chosen by hand).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from auditor.personalize.blocks.denoising import Drawn, denoising_error, draw, mean_square
from auditor.personalize.blocks.examples import Examples
from auditor.personalize.blocks.optimise import Step
from auditor.personalize.blocks.texts import encode_distinct
from auditor.pipeline.components import Components
from auditor.pipeline.conditioning import Conditioning

__all__ = ["Beside", "BesideLoss"]


@dataclass(frozen=True)
class Beside:
    """A second set: latents (M, C, h, w), its one prompt, and the weight w of its loss; none where empty or w = 0."""

    latents: Tensor
    prompt: str
    weight: float

    def __bool__(self) -> bool:
        return len(self.latents) > 0 and self.weight > 0

    @property
    def hashes(self) -> list[str]:
        """SHA-256 of each row of latents."""
        return Examples.hashes_of(self.latents.cpu())


class BesideLoss:
    """The loss of a step; as many rows of the second set as of the examples.

    Args:
        base: with whatever is trained in its place.
        examples: each with its own prompt.
        second: the second set.
        batch: rows of each set.
        text_trained: whether prompts have to be encoded anew in every step.
    """

    def __init__(
        self, base: Components, examples: Examples, second: Beside, batch: int, text_trained: bool
    ) -> None:
        self._base, self._examples, self._second, self._batch = base, examples, second, batch
        self._prompts = (*examples.prompts, *([second.prompt] if second else []))
        self._frozen = None if text_trained else encode_distinct(base, self._prompts)

    def __call__(self, step: Step) -> Tensor:
        """The loss of one step, a scalar with gradients."""
        batch, generator = self._batch, step.generator
        drawn = draw(self._base, self._examples.latents, batch, generator)
        rows, weight = drawn.rows, torch.ones(batch)
        if self._second:
            others = draw(self._base, self._second.latents, batch, generator)
            drawn = Drawn.join([drawn, others])
            # Its one prompt comes after those of the examples.
            rows = torch.cat([rows, torch.full((batch,), len(self._examples))])
            weight = torch.cat([weight, torch.full((batch,), self._second.weight)])
        error = mean_square(denoising_error(self._base, drawn, self._condition(rows)))
        return (weight.to(error.device) * error).sum() / batch

    def _condition(self, rows: Tensor) -> Conditioning:
        """Of the prompts that rows (B,) stand for; those that are trained anew, and only those that were drawn."""
        if self._frozen is not None:
            return self._frozen[rows]
        return encode_distinct(self._base, [self._prompts[i] for i in rows.tolist()])
