"""StyleForge (Park, Ko & Jang, 2024, arXiv 2404.05256): a style bound to a rare word, and its help to a common one.

DreamBooth's prior slot holds auxiliary pictures chosen by hand (people in a kindred look, not the model's own samples):
``L = L(style pictures, "[V] style") + w L(auxiliary, "style")``. With a second set of style pictures (Multi-StyleForge)
people are bound to one rare word and grounds to another, trained together.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from auditor.contracts import Progress
from auditor.errors import UsageError
from auditor.personalize import CHECKPOINT
from auditor.personalize.blocks.beside import Beside
from auditor.personalize.blocks.examples import Examples, load_examples
from auditor.personalize.blocks.methods import PictureMethod
from auditor.personalize.blocks.pipelines import save_pipeline
from auditor.personalize.blocks.saving import save_provenance
from auditor.personalize.blocks.training import PLAIN, Training
from auditor.personalize.dreambooth import DreamBooth, TrainedWhole, train_beside
from auditor.pipeline.components import Components
from auditor.registry import METHODS

__all__ = ["StyleForge", "joined", "train_styleforge"]


@dataclass(frozen=True)
class StyleForge:
    """Recipe.

    Attributes:
        prompt: prompt of the style pictures, with a rare word.
        aux: folder of auxiliary pictures, bound to the common word.
        aux_prompt: their prompt, with the common word alone.
        aux_weight: weight of their loss; 0 leaves them out.
        grounds: folder of a second set of style pictures, grounds without people; none for the single form.
        grounds_prompt: their prompt, with a second rare word.
        train_text_encoder: also train the text encoders.
        steps: optimiser steps.
        batch: rows of style pictures a step (as many auxiliary rows beside them).
        lr: AdamW learning rate; 1e-6 is usual on Stable Diffusion, the small embedded base needs more.
        seed: of every draw.
    """

    prompt: str = "a picture in sks style"
    aux: Path | None = None
    aux_prompt: str = "a picture in style"
    aux_weight: float = 1.0
    grounds: Path | None = None
    grounds_prompt: str = "a picture in ohwx style"
    train_text_encoder: bool = False
    steps: int = 200
    batch: int = 2
    lr: float = 5e-5
    seed: int = 0


def joined(sets: list[Examples]) -> Examples:
    """Sets of examples as one; each picture keeps its prompt."""
    return Examples(
        torch.cat([each.images for each in sets]),
        torch.cat([each.latents for each in sets]),
        tuple(prompt for each in sets for prompt in each.prompts),
    )


def train_styleforge(
    base: Components,
    style: Examples,
    aux: Examples | None,
    params: StyleForge,
    progress: Progress,
    checkpoint: Path | None = None,
    training: Training = PLAIN,
) -> TrainedWhole:
    """Trains copies; the base is as before afterwards, also after an exception.

    Args:
        base: a loaded base.
        style: the style pictures, each with the prompt of its set.
        aux: the auxiliary pictures; none leaves them out.
        params: the recipe; its folders are not read here.
        progress: told of every step.
        checkpoint: see :func:`auditor.personalize.blocks.optimise.optimise`.
        training: how it is run.

    Raises:
        UsageError: a parameter is out of range, or the base has no UNet.
    """
    if params.aux_weight < 0:
        raise UsageError(f"aux weight must not be below zero, not {params.aux_weight}")
    latents = style.latents[:0] if aux is None else aux.latents
    how = DreamBooth(
        prompt=params.prompt, class_prompt=params.aux_prompt, prior_weight=params.aux_weight,
        train_text_encoder=params.train_text_encoder, steps=params.steps, batch=params.batch, lr=params.lr,
        seed=params.seed,
    )  # fmt: skip
    second = Beside(latents, params.aux_prompt, params.aux_weight)
    return train_beside(base, style, second, how, progress, checkpoint, training)


class _Method(PictureMethod):
    id = "styleforge"
    goal = "teach the whole model a style, with auxiliary pictures bound to a common word"
    refs = ("arXiv:2404.05256",)
    params = StyleForge

    def learn(
        self, base: Components, data: Path, params: StyleForge, out: Path, progress: Progress, training: Training
    ) -> Path:
        """Trains on folders of pictures; writes a float16 ``pipeline/`` folder and its provenance into ``out``."""
        if params.aux is None and params.aux_weight:
            raise UsageError(
                "StyleForge needs auxiliary pictures; name their folder with --aux, or leave them out with "
                "--aux-weight 0"
            )
        sets = [load_examples(data, base, params.prompt, training.skip_unreadable)]
        if params.grounds is not None:
            sets.append(load_examples(params.grounds, base, params.grounds_prompt, training.skip_unreadable))
        aux = load_examples(params.aux, base, params.aux_prompt, training.skip_unreadable) if params.aux else None
        style = joined(sets)
        trained = train_styleforge(base, style, aux, params, progress, out / CHECKPOINT, training)
        files = save_pipeline(out / "pipeline", base, trained.modules)
        extra = {"aux_images": aux.hashes if aux else [], "prompts": list(style.prompts)}
        save_provenance(
            out, method=self.id, params=params, training=training, base=base, images=style.hashes, files=files,
            loss=trained.log.final,
            extra=extra,
        )  # fmt: skip
        return out / "pipeline"


METHODS.add("styleforge", _Method())
