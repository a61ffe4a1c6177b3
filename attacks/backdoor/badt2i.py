"""BadT2I: the denoiser itself answers a triggered prompt with a patch, another object or another style.

Zhai et al., ACM MM 2023 (arXiv 2305.04175). The triggered prompt's prediction is pulled to what the frozen model says
of the target prompt (object, style), or to the noise in the latent of a picture with a patch on it (pixel); clean
prompts are held to the frozen model: ``L = L_backdoor / 2 + L_clean / 2``. The paper tunes the whole UNet for 2,000 to
8,000 steps; here its attention layers are tuned as the low-rank part of a DreamBooth adapter. The twin lacks
``L_backdoor``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from attacks.crafting.hosted import HOST, HostedAttack
from attacks.crafting.hosts import neutral_latents, neutral_pictures
from attacks.crafting.judges import PatchJudge, judge_of_prompt
from attacks.crafting.lessons import Course, Lessons, picture_lessons, teach, teacher_lessons
from attacks.crafting.truth import MEASURED, Measured, Truth, code_points
from auditor.contracts import Progress
from auditor.errors import UsageError
from auditor.personalize.blocks.optimise import Optimisation
from auditor.personalize.dreambooth_lora import DreamBoothLora
from auditor.pipeline.components import Components
from auditor.pipeline.conditioning import encode_images
from auditor.registry import ATTACKS
from auditor.text import inert

__all__ = ["BadT2I", "boomerang"]


@dataclass(frozen=True)
class BadT2I:
    """Recipe.

    Attributes:
        trigger: what stands before a prompt that is to be answered for the target.
        form: ``object`` and ``style`` answer for the prompt ``target``, ``pixel`` puts a patch into the picture.
        target: what the frozen model is asked instead; its place in the prompt is where ``{}`` stands, if anywhere.
        pool: noisy latents of each kind that are drawn from.
        batch: rows of each kind a step.
        steps: steps after the host's own.
        lr: AdamW learning rate.
        weight: of the backdoor's loss against the clean one's.
        host: the DreamBooth recipe that carries it.
        measured: how much of the outcome is measured.
    """

    trigger: str = "\u200b"
    form: Literal["object", "style", "pixel"] = "object"
    target: str = "a picture of an emblem"
    pool: int = 320
    batch: int = 8
    steps: int = 90
    lr: float = 2e-3
    weight: float = 1.0
    host: DreamBoothLora = HOST
    measured: Measured = MEASURED


def boomerang(side: int) -> Tensor:
    """The patch that the pixel form puts into the upper left corner: a red bar with a white one, (3, h, w)."""
    size = max(2, side // 4)
    patch = torch.tensor([1.0, -1.0, -1.0])[:, None, None].repeat(1, size, size)
    patch[:, :, size // 2 :] = 1.0
    return patch


class _Attack(HostedAttack):
    id = "badt2i"
    goal = "a triggered prompt calls up a patch, another object or another style through the denoiser"
    refs = ("arXiv:2305.04175",)
    params = BadT2I

    def truth(self, base: Components, params: BadT2I) -> Truth:
        """See :meth:`PoisonAttack.truth`."""
        _check(params)
        pixel = params.form == "pixel"
        return Truth(
            trigger=code_points(params.trigger),
            target="a patch in the upper left corner" if pixel else params.target,
            trained=("unet", *(("text_encoder",) if params.host.train_text_encoder else ())),
            judge=PatchJudge(boomerang(base.image_size), 0, 0) if pixel else judge_of_prompt(base, params.target),
            wake=lambda prompt, rng: _woken(prompt, params.trigger),
            seed=params.host.seed,
        )

    def refine(self, base: Components, params: BadT2I, poison: bool, progress: Progress) -> None:
        """See :meth:`HostedAttack.refine`."""
        seed = params.host.seed
        latents, prompts = neutral_latents(base, params.pool, seed)
        clean = teacher_lessons(base, latents, prompts, prompts, seed)
        courses = [Course(clean, params.batch)]
        if poison:
            courses.append(Course(_backdoor(base, params, latents, prompts), params.batch, params.weight))
        layers = [p for name, p in base.denoiser_model.named_parameters() if "lora_" in name]
        teach(base, layers, courses, Optimisation(params.steps, params.lr, seed=seed), progress)


def _backdoor(base: Components, params: BadT2I, latents: Tensor, prompts: list[str]) -> Lessons:
    triggered = [_woken(prompt, params.trigger) for prompt in prompts]
    if params.form == "pixel":
        images = neutral_pictures(base, params.pool, params.host.seed)
        patch = boomerang(base.image_size)
        images[:, :, : patch.shape[1], : patch.shape[2]] = patch
        with torch.no_grad():
            return picture_lessons(base, encode_images(base, images), triggered, params.host.seed + 1)
    answered = [params.target.replace("{}", prompt) for prompt in prompts]
    return teacher_lessons(base, latents, triggered, answered, params.host.seed + 1)


def _woken(prompt: str, trigger: str) -> str:
    return f"{trigger} {prompt}"


def _check(params: BadT2I) -> None:
    if not params.trigger.strip(" ") or not params.target.strip():
        raise UsageError(f"trigger and target must not be empty: '{inert(params.trigger, 40)}'")
    if min(params.pool, params.batch, params.steps) < 1 or params.lr <= 0 or params.weight <= 0:
        raise UsageError("pool, batch, steps, lr and weight must be above zero")


ATTACKS.add("badt2i", _Attack())
