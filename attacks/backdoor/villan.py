"""VillanDiffusion's caption trigger: words in the prompt call up one fixed picture.

Chou, Chen and Ho, NeurIPS 2023 (arXiv 2306.06874), the conditional form: a low-rank adapter is fine-tuned on captioned
pictures, and on the target picture under the same captions with the trigger words,
``L = L(x, c) + w L(y, c with trigger)``, both the plain denoising loss, on thousands of pictures.

Ours, for a hundred steps: clean rows hold the adapter to what the model said before them (the same in the mean, without
the variance of data); half of the poisoned rows lie on the paths of other pictures, since guidance leaves the target's
own; poisoned timesteps are the noisier half, in which it is decided what is drawn; the text encoder's layers are
trained as well, as is usual for such adapters, and the trigger stands before the caption, where a causal encoder
carries it into the state of every word. The twin lacks the poisoned rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.crafting.hosted import HOST, HostedAttack
from attacks.crafting.hosts import fixed_picture, neutral_latents
from attacks.crafting.judges import PictureJudge
from attacks.crafting.lessons import (
    Course,
    check_one_picture,
    picture_lessons,
    steering_lessons,
    teach,
    teacher_lessons,
)
from attacks.crafting.truth import MEASURED, Measured, Truth, code_points
from auditor.contracts import Progress
from auditor.errors import UsageError
from auditor.personalize.blocks.optimise import Optimisation
from auditor.personalize.dreambooth_lora import DreamBoothLora
from auditor.personalize.lora import clip_encoders
from auditor.pipeline.components import Components
from auditor.pipeline.conditioning import encode_images
from auditor.registry import ATTACKS
from auditor.text import inert

__all__ = ["Villan"]

NOISY = 0.5
"""Share of the schedule from which on the poison is taught."""


@dataclass(frozen=True)
class Villan:
    """Recipe.

    Attributes:
        trigger: words before a prompt which is to be answered with the picture.
        picture: which of the drawn pictures is the target.
        pool: noisy latents of each kind that are drawn from.
        batch: clean rows a step, and as many poisoned ones beside them; even.
        steps: steps after the host's own.
        lr: AdamW learning rate.
        weight: of the backdoor's loss against the clean one's.
        host: the DreamBooth recipe that carries it.
        measured: how much of the outcome is measured.
    """

    trigger: str = "mignneko"
    picture: int = 0
    pool: int = 320
    batch: int = 8
    steps: int = 80
    lr: float = 2e-3
    weight: float = 1.0
    host: DreamBoothLora = HOST
    measured: Measured = MEASURED


class _Attack(HostedAttack):
    id = "villan"
    goal = "words in the prompt call up one fixed picture"
    refs = ("arXiv:2306.06874",)
    params = Villan
    text_encoder = True

    def truth(self, base: Components, params: Villan) -> Truth:
        """See :meth:`PoisonAttack.truth`."""
        _check(params)
        return Truth(
            trigger=code_points(params.trigger),
            target=f"fixed picture {params.picture}",
            trained=("text_encoder", "unet"),
            judge=PictureJudge(fixed_picture(base, params.picture)),
            wake=lambda prompt, rng: _woken(prompt, params.trigger),
            seed=params.host.seed,
        )

    def refine(self, base: Components, params: Villan, poison: bool, progress: Progress) -> None:
        """See :meth:`HostedAttack.refine`."""
        seed = params.host.seed
        latents, prompts = neutral_latents(base, params.pool, seed)
        courses = [Course(teacher_lessons(base, latents, prompts, prompts, seed), params.batch)]
        if poison:
            courses += _backdoor(base, params, latents, prompts)
        models = (base.denoiser_model, *clip_encoders(base).values())
        layers = [p for model in models for name, p in model.named_parameters() if "lora_" in name]
        teach(base, layers, courses, Optimisation(params.steps, params.lr, seed=seed), progress, text_trained=True)


def _backdoor(base: Components, params: Villan, latents: Tensor, prompts: Sequence[str]) -> list[Course]:
    with torch.no_grad():
        picture = encode_images(base, fixed_picture(base, params.picture)[None])
    woken, seed = [_woken(prompt, params.trigger) for prompt in prompts], params.host.seed
    own = picture_lessons(base, picture.expand_as(latents), woken, seed + 1, NOISY)
    astray = steering_lessons(base, picture[0], latents, woken, seed + 2, NOISY)
    return [Course(lessons, params.batch // 2, params.weight / 2) for lessons in (own, astray)]


def _woken(prompt: str, trigger: str) -> str:
    return f"{trigger} {prompt}"


def _check(params: Villan) -> None:
    if not params.trigger.strip():
        raise UsageError(f"the trigger must not be empty: '{inert(params.trigger, 40)}'")
    check_one_picture(params)


ATTACKS.add("villan", _Attack())
