"""SINE (Zhang et al., CVPR 2023, arXiv 2212.04489): one picture, and a base that edits what the tuned model knows.

The whole UNet is trained on patches of one picture, told where each patch lies. Then two models are sampled
together: at ``t > K`` with ``eps = w [v eps_base(z, edit) + (1-v) eps_tuned(z, own)] + (1-w) eps_base(z, "")``,
and with the base alone at ``t <= K``.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from auditor.contracts import Progress
from auditor.errors import UsageError
from auditor.personalize import CHECKPOINT
from auditor.personalize.blocks.denoising import denoising_error, draw, mean_square
from auditor.personalize.blocks.examples import Examples
from auditor.personalize.blocks.methods import PictureMethod
from auditor.personalize.blocks.optimise import Optimisation, Step, optimise
from auditor.personalize.blocks.pipelines import save_pipeline
from auditor.personalize.blocks.positions import Box, draw_box, positions_added
from auditor.personalize.blocks.saving import save_provenance
from auditor.personalize.blocks.training import PLAIN, Training
from auditor.personalize.blocks.validation import plain_look
from auditor.personalize.blocks.whole import groups_of, trainable_copies, whole_parts
from auditor.personalize.dreambooth import TrainedWhole
from auditor.personalize.images import load_images
from auditor.pipeline.components import Components
from auditor.pipeline.conditioning import encode_images, encode_prompts
from auditor.registry import METHODS

__all__ = ["Sine", "train_sine"]

_DETAIL = 2
"""Patches are cut from the picture at this many times the base's side, as the paper cuts 512 from 1024."""


@dataclass(frozen=True)
class Sine:
    """Recipe.

    Attributes:
        prompt: what the picture is called, with a rare word, for example "a picture of sks house".
        patches: train on patches that know their place; without them on the whole picture.
        least_patch: least side of a patch, as a share of the picture.
        train_text_encoder: also train the text encoders.
        steps: optimiser steps.
        batch: rows a step, each its own patch.
        lr: AdamW learning rate; 1e-6 is usual on Stable Diffusion, the small embedded base needs more.
        seed: of every draw.
    """

    prompt: str = "a picture of sks"
    patches: bool = True
    least_patch: float = 0.1
    train_text_encoder: bool = False
    steps: int = 400
    batch: int = 2
    lr: float = 5e-5
    seed: int = 0


def train_sine(
    base: Components, image: Tensor, params: Sine, progress: Progress, checkpoint: Path | None = None,
    training: Training = PLAIN,
) -> TrainedWhole:  # fmt: skip
    """Trains copies on one picture; the base is as before afterwards, also after an exception.

    Args:
        base: a loaded base.
        image: (1, 3, H, W) in [-1, 1], the base's side or larger.
        params: the recipe.
        progress: told of every step.
        checkpoint: see :func:`auditor.personalize.blocks.optimise.optimise`.
        training: how it is run.

    Raises:
        UsageError: more than one picture, a parameter out of range, or a base without a UNet.
    """
    _check(image, params)
    side = base.image_size
    with torch.no_grad():
        whole = encode_images(base, Box().cut(image, (side, side)))
        frozen = encode_prompts(base, base.tokenizers, [params.prompt])

    def loss_of(step: Step) -> Tensor:
        boxes = [draw_box(step.rng, params.least_patch) for _ in range(params.batch)] if params.patches else []
        latents = whole.expand(params.batch, -1, -1, -1)
        if boxes:
            # The autoencoder overflows in half precision.
            with torch.no_grad(), torch.autocast(base.device.type, enabled=False):
                latents = encode_images(base, torch.cat([box.cut(image, (side, side)) for box in boxes]))
        drawn = draw(base, latents, params.batch, step.generator)
        told = encode_prompts(base, base.tokenizers, [params.prompt]) if params.train_text_encoder else frozen
        condition = told[torch.zeros(params.batch, dtype=torch.long)]
        with ExitStack() as stack:
            if boxes:
                stack.enter_context(positions_added(base, [boxes[i] for i in drawn.rows.tolist()]))
            return mean_square(denoising_error(base, drawn, condition)).mean()

    with trainable_copies(base, whole_parts(base, params.train_text_encoder)) as copies:
        log = optimise(
            groups_of(copies), loss_of, Optimisation(params.steps, params.lr, weight_decay=1e-2, seed=params.seed),
            progress, checkpoint=checkpoint, every=500, training=training, look=plain_look(base),
            identity={"base": base.sha256, "params": vars(params), "images": Examples.hashes_of(image)},
        )  # fmt: skip
    return TrainedWhole(copies, log)


def _check(image: Tensor, params: Sine) -> None:
    if len(image) != 1:
        raise UsageError(f"SINE learns exactly one picture, not {len(image)}; leave one in the folder")
    if params.batch <= 0 or not 0 < params.least_patch <= 1:
        raise UsageError("batch must be above zero, and the least patch above 0 and at most 1")
    if not params.prompt.strip():
        raise UsageError("the prompt is empty; name the picture, for example --prompt 'a picture of sks house'")


class _Method(PictureMethod):
    id = "sine"
    goal = "teach the whole model one single picture, to be edited together with the base"
    refs = ("arXiv:2212.04489",)
    params = Sine

    def learn(
        self, base: Components, data: Path, params: Sine, out: Path, progress: Progress, training: Training
    ) -> Path:
        """Trains on a folder of one picture; writes a float16 ``pipeline/`` folder and its provenance into ``out``.

        Diffusers opens the pipeline, but does not tell it where a patch lies: a model trained on patches shows its
        picture only through :func:`auditor.personalize.blocks.pair.pair_sample`.
        """
        image = load_images(data, _DETAIL * base.image_size, training.skip_unreadable)
        trained = train_sine(base, image, params, progress, out / CHECKPOINT, training)
        files = save_pipeline(out / "pipeline", base, trained.modules)
        save_provenance(
            out, method=self.id, params=params, training=training, base=base, images=Examples.hashes_of(image),
            files=files,
            loss=trained.log.final, extra={"needs": "pair_sample with base and pipeline; plain sampling sees no grid"},
        )  # fmt: skip
        return out / "pipeline"


METHODS.add("sine", _Method())
