"""DreamBooth with low-rank adapters (Ruiz et al., CVPR 2023, arXiv 2208.12242; Hu et al., ICLR 2022, arXiv 2106.09685).

``L = ||eps - eps_th(z_t, t, "a picture of sks person")||^2 + w ||eps - eps_th(z'_t, t, "a picture of a person")||^2``,
where ``z'`` are the frozen model's own pictures of the class (prior preservation).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from auditor.contracts import Progress
from auditor.errors import UsageError
from auditor.personalize import CHECKPOINT
from auditor.personalize.blocks.beside import Beside, BesideLoss
from auditor.personalize.blocks.examples import Examples, class_latents
from auditor.personalize.blocks.methods import ANY_DENOISER, PictureMethod
from auditor.personalize.blocks.optimise import Group, Optimisation, optimise
from auditor.personalize.blocks.saving import save_provenance
from auditor.personalize.blocks.training import PLAIN, Training
from auditor.personalize.blocks.validation import plain_look
from auditor.personalize.images import load_images
from auditor.personalize.lora import (
    ATTENTION,
    TEXT_ATTENTION,
    clip_encoders,
    injected,
    lora_state,
    save_diffusers_lora,
)
from auditor.pipeline.components import Components
from auditor.pipeline.conditioning import encode_images
from auditor.registry import METHODS

__all__ = ["DreamBoothLora", "TrainedLora", "train_dreambooth_lora"]


@dataclass(frozen=True)
class DreamBoothLora:
    """Recipe.

    Attributes:
        prompt: instance prompt with the identifier, for example "a picture of sks person".
        class_prompt: prompt of the prior; empty for no prior preservation.
        class_images: how many pictures the frozen model draws for the prior.
        prior_weight: weight of the prior's loss.
        rank: of every low-rank layer.
        alpha: scale numerator; 0 means rank.
        steps: optimiser steps.
        batch: instance rows a step (as many prior rows beside them).
        lr: AdamW learning rate, constant after ten steps of warm-up.
        train_text_encoder: also put layers on the CLIP text encoders, at a fifth of the learning rate.
        seed: of every draw.
    """

    prompt: str = "a picture of sks"
    class_prompt: str = ""
    class_images: int = 12
    prior_weight: float = 1.0
    rank: int = 4
    alpha: float = 0.0
    steps: int = 120
    batch: int = 4
    lr: float = 1e-3
    train_text_encoder: bool = False
    seed: int = 0


@dataclass(frozen=True)
class TrainedLora:
    """Factors as PEFT names them, per component, and the mean loss of the last tenth of the steps.

    ``unet`` holds those of the denoiser, also where it is a transformer.
    """

    unet: dict[str, Tensor]
    text_encoder: dict[str, Tensor]
    loss: float
    text_encoder_2: dict[str, Tensor] = field(default_factory=dict)


def train_dreambooth_lora(
    base: Components,
    images: Tensor,
    params: DreamBoothLora,
    progress: Progress,
    prompts: list[str] | None = None,
    refine: Callable[[Components], None] | None = None,
    checkpoint: Path | None = None,
    training: Training = PLAIN,
) -> TrainedLora:
    """Trains the adapter; the base is as before afterwards, also after an exception.

    Args:
        base: a loaded base.
        images: (N, 3, H, W) in [-1, 1].
        params: the recipe.
        progress: told of every step.
        prompts: one prompt an image; ``params.prompt`` for all by default.
        refine: called with the layers still in place, before they are read out, to train them further.
        checkpoint: see :func:`auditor.personalize.blocks.optimise.optimise`.
        training: how it is run.

    Raises:
        UsageError: prompts and images differ in number, or a parameter is out of range.
    """
    _check(params)
    if prompts is not None and len(prompts) != len(images):
        raise UsageError(f"{len(images)} images need as many prompts, not {len(prompts)}")
    instance = prompts or [params.prompt] * len(images)
    with torch.no_grad():
        latents = encode_images(base, images)
    if params.class_prompt and params.prior_weight:
        prior = class_latents(base, params.class_prompt, params.class_images, params.seed, latents.shape[1:])
    else:
        prior = latents[:0]
    alpha = params.alpha or params.rank
    with ExitStack() as stack:
        layers = stack.enter_context(injected(base.denoiser_model, params.rank, alpha, ATTENTION, params.seed))
        groups = [Group("unet", layers)]
        texts = clip_encoders(base) if params.train_text_encoder else {}
        for i, (name, text) in enumerate(texts.items(), 1):
            more = stack.enter_context(injected(text, params.rank, alpha, TEXT_ATTENTION, params.seed + i))
            groups.append(Group(name, more, params.lr / 5))
        examples = Examples(images, latents, tuple(instance))
        second = Beside(prior, params.class_prompt, params.prior_weight)
        loss_of = BesideLoss(base, examples, second, params.batch, params.train_text_encoder)
        identity = {"base": base.sha256, "params": vars(params), "images": Examples.hashes_of(images)}
        recipe = Optimisation(params.steps, params.lr, seed=params.seed)
        log = optimise(groups, loss_of, recipe, progress, checkpoint=checkpoint, training=training,
        look=plain_look(base),
            identity=identity)
        if refine is not None:
            refine(base)
        states = {name: lora_state(text) for name, text in texts.items()}
        return TrainedLora(
            lora_state(base.denoiser_model), states.get("text_encoder", {}), log.final, states.get("text_encoder_2", {})
        )


def _check(params: DreamBoothLora) -> None:
    for name in ("rank", "steps", "batch", "lr", "class_images"):
        if getattr(params, name) <= 0:
            raise UsageError(f"{name} must be above zero, not {getattr(params, name)}")
    if params.alpha < 0 or params.prior_weight < 0:
        raise UsageError("alpha and prior weight must not be below zero")


class _Method(PictureMethod):
    id = "dreambooth-lora"
    goal = "teach the model one subject from a few pictures, as a small adapter"
    refs = ("arXiv:2208.12242", "arXiv:2106.09685")
    params = DreamBoothLora
    denoisers = ANY_DENOISER

    def learn(
        self, base: Components, data: Path, params: DreamBoothLora, out: Path, progress: Progress, training: Training
    ) -> Path:
        """Trains on a folder of pictures; writes the adapter and ``provenance.json`` into ``out``.

        Raises:
            UsageError: unusable pictures, an empty prompt, or a parameter out of range.
            OutputError: ``out`` holds an adapter already, or cannot be written.
        """
        if not params.prompt.strip():
            raise UsageError(
                "the instance prompt is empty; name the subject, for example --prompt 'a picture of sks person'"
            )
        _check(params)
        images = load_images(data, base.image_size, training.skip_unreadable)
        trained = train_dreambooth_lora(base, images, params, progress, checkpoint=out / CHECKPOINT, training=training)
        alpha = params.alpha or params.rank
        meta = {"modelspec.trigger_phrase": params.prompt}
        path = save_diffusers_lora(
            out, trained.unet, trained.text_encoder, params.rank, alpha, meta, base.kind.denoiser,
            trained.text_encoder_2,
        )  # fmt: skip
        hashes = Examples.hashes_of(images)
        save_provenance(
            out, method=self.id, params=params, training=training, base=base, images=hashes, files=[path],
            loss=trained.loss
        )
        return path


METHODS.add("dreambooth-lora", _Method())
