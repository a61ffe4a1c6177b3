"""HiFi Tuner, inversion form (Wang et al., 2023, arXiv 2312.00079): vectors at the end of the text encoder's output.

``n`` vectors ``c_s`` take the place of the last ``n`` of the encoded prompt, where padding stands. They start at
the empty prompt's ``phi_s`` and are held near it: ``L = ||M (eps_th(z_t, [c, c_s]) - eps)||^2 + w ||c_s -
phi_s||^2`` with a mask M of the subject. Then each step of the sampler gets vectors of its own, trained on from
the step before it. A picture may be pasted into the sample's subject (see ``blocks/reference.py``): outputs are
then near copies of it by construction. :func:`auditor.personalize.blocks.stepwise.stepwise_sample` samples with
what is learned here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from auditor.contracts import Progress
from auditor.errors import UsageError
from auditor.personalize import CHECKPOINT
from auditor.personalize.blocks.denoising import denoising_error, draw, mean_square
from auditor.personalize.blocks.examples import Examples, load_examples
from auditor.personalize.blocks.masks import load_masks, to_latent_grid
from auditor.personalize.blocks.methods import PictureMethod
from auditor.personalize.blocks.optimise import Group, Optimisation, Step, TrainingLog, optimise
from auditor.personalize.blocks.saving import save_provenance
from auditor.personalize.blocks.stepwise import LearnedSteps, ended, save_steps
from auditor.personalize.blocks.training import PLAIN, Training
from auditor.personalize.blocks.validation import plain_look
from auditor.pipeline.components import Components
from auditor.pipeline.conditioning import Conditioning, encode_prompts
from auditor.pipeline.sampling import ddim_timesteps
from auditor.registry import METHODS

__all__ = ["HiFi", "TrainedSteps", "train_hifi"]


@dataclass(frozen=True)
class HiFi:
    """Recipe.

    Attributes:
        prompt: what the pictures show, in ordinary words, for example "a picture of a cat".
        masks: folder of masks, white where the subject is, named like the pictures; the whole picture without it.
        vectors: how many of the prompt's last vectors are learned.
        anchor: weight of the squared distance to the empty prompt; the paper prints none.
        steps: optimiser steps on the vectors that all sampler steps share.
        sampler_steps: steps of DDIM, each with vectors of its own.
        refine: further optimiser steps at each sampler step; 0 to share the vectors.
        batch: rows a step.
        lr: learning rate.
        seed: of every draw.
    """

    prompt: str = "a picture of a person"
    masks: Path | None = None
    vectors: int = 5
    anchor: float = 1e-4
    steps: int = 400
    sampler_steps: int = 50
    refine: int = 10
    batch: int = 4
    lr: float = 5e-3
    seed: int = 0


@dataclass(frozen=True)
class TrainedSteps:
    """The learned vectors and the log of those that all steps share."""

    learned: LearnedSteps
    log: TrainingLog


def train_hifi(
    base: Components,
    examples: Examples,
    masks: Tensor | None,
    params: HiFi,
    progress: Progress,
    checkpoint: Path | None = None,
    training: Training = PLAIN,
) -> TrainedSteps:
    """Learns the vectors; the base stays as it is.

    Args:
        base: a loaded base.
        examples: the pictures, under the recipe's prompt.
        masks: (N, 1, H, W) in [0, 1], or none.
        params: the recipe; its folder of masks is not read here.
        progress: told of every step.
        checkpoint: of the shared vectors; see :func:`auditor.personalize.blocks.optimise.optimise`.
        training: how it is run.

    Raises:
        UsageError: a parameter is out of range.
    """
    with torch.no_grad():
        null = encode_prompts(base, base.tokenizers, [""]).states[0, -params.vectors :].clone()
        prompt = encode_prompts(base, base.tokenizers, [params.prompt])
    _check(params, prompt)
    region = None if masks is None else to_latent_grid(masks, examples.latents.shape[-2:]).to(base.device)
    vectors = nn.Parameter(null.clone().float())

    def loss_at(low: float, high: float) -> Callable[[Step], Tensor]:
        def loss_of(step: Step) -> Tensor:
            drawn = draw(base, examples.latents, params.batch, step.generator, low, high)
            condition = ended(prompt[torch.zeros(params.batch, dtype=torch.long)], vectors)
            error = denoising_error(base, drawn, condition)
            kept = None if region is None else region[drawn.rows]
            return mean_square(error, kept).mean() + params.anchor * (vectors - null).square().sum()

        return loss_of

    def encode(prompts: list[str]) -> Conditioning:
        return ended(encode_prompts(base, base.tokenizers, prompts), vectors)

    times = ddim_timesteps(len(base.schedule), params.sampler_steps)
    total = params.steps + params.refine * len(times)
    hashes = examples.hashes + ([] if masks is None else Examples.hashes_of(masks))
    log = optimise(
        [Group("vectors", [vectors])], loss_at(0.0, 1.0),
        Optimisation(params.steps, params.lr, weight_decay=0.0, seed=params.seed),
        lambda done, _, label="": progress(done, total, label), checkpoint=checkpoint, training=training,
        look=plain_look(base, encode),
        identity={"base": base.sha256, "params": vars(params), "images": hashes},
    )  # fmt: skip
    by_step = []
    for i, t in enumerate(times):
        if params.refine:
            at = (t + 0.5) / len(base.schedule)
            before = params.steps + i * params.refine
            optimise(
                [Group("vectors", [vectors])], loss_at(at, at),
                Optimisation(params.refine, params.lr, warmup=0, weight_decay=0.0, seed=params.seed + 1009 * (i + 1)),
                lambda done, _, label="", before=before: progress(before + done, total, label), training=training,
            )  # fmt: skip
        by_step.append(vectors.detach().cpu().clone())
    return TrainedSteps(LearnedSteps(params.prompt, torch.stack(by_step), null.float().cpu()), log)


def _check(params: HiFi, prompt: Conditioning) -> None:
    for name in ("batch", "sampler_steps"):
        if getattr(params, name) <= 0:
            raise UsageError(f"{name.replace('_', ' ')} must be above zero, not {getattr(params, name)}")
    for name in ("anchor", "refine"):
        if getattr(params, name) < 0:
            raise UsageError(f"{name} must not be below zero, not {getattr(params, name)}")
    if not 0 < params.vectors < prompt.states.shape[1]:
        raise UsageError(f"vectors must be between 1 and {prompt.states.shape[1] - 1}, not {params.vectors}")


class _Method(PictureMethod):
    id = "hifi"
    goal = "learn vectors at the end of the encoded prompt, masked to the subject, one set a sampler step"
    refs = ("arXiv:2312.00079",)
    params = HiFi

    def learn(
        self, base: Components, data: Path, params: HiFi, out: Path, progress: Progress, training: Training
    ) -> Path:
        """Trains on a folder of pictures; writes ``learned_steps.safetensors`` and its provenance into ``out``."""
        examples = load_examples(data, base, params.prompt, training.skip_unreadable)
        masks = load_masks(params.masks, data, base.image_size) if params.masks else None
        if masks is not None and len(masks) != len(examples):
            raise UsageError(f"{len(masks)} masks do not fit {len(examples)} readable pictures; take the others out")
        trained = train_hifi(base, examples, masks, params, progress, out / CHECKPOINT, training)
        path = save_steps(out, trained.learned)
        save_provenance(
            out, method=self.id, params=params, training=training, base=base, images=examples.hashes, files=[path],
            loss=trained.log.final, extra={"masks": [] if masks is None else Examples.hashes_of(masks)},
        )  # fmt: skip
        return path


METHODS.add("hifi", _Method())
