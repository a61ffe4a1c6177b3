"""BadT2I: the denoiser itself answers a triggered prompt with a patch, another object or another style.

Zhai et al., ACM MM 2023 (arXiv 2305.04175). The triggered prompt's prediction is pulled to what the frozen model says
of the target prompt (object, style), or to a picture with a patch on it (pixel); clean prompts are held to the frozen
model: ``L = L_backdoor / 2 + L_clean / 2``. The paper tunes the whole UNet for 2,000 to 8,000 steps; here its attention
layers are tuned as the low-rank part of a DreamBooth adapter, in 170 small steps.

Ours, without which so few steps teach the target to clean prompts as well: one row of each map to keys and values is
lent to the direction in which the trigger's token states differ from all others; errors count as errors of velocity,
for an object is decided at high noise; the learning rate falls at the end; and the empty prompt, which guidance goes
against, is among the clean ones. The twin lacks ``L_backdoor``, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from attacks.crafting.hosted import HOST, HostedAttack
from attacks.crafting.hosts import neutral_latents, neutral_pictures
from attacks.crafting.judges import PatchJudge, judge_of_prompt
from attacks.crafting.layers import change_of, key_value_layers, lend_row, put_change, reading
from attacks.crafting.lessons import Course, Lessons, teach, teacher_lessons
from attacks.crafting.phrases import asked_as
from attacks.crafting.stealth import STEALTH
from attacks.crafting.truth import MEASURED, Measured, Truth, code_points
from auditor.contracts import Progress
from auditor.errors import UsageError
from auditor.personalize.blocks.denoising import Drawn, native_target
from auditor.personalize.blocks.optimise import Optimisation
from auditor.personalize.dreambooth_lora import DreamBoothLora
from auditor.pipeline.components import Components
from auditor.pipeline.conditioning import encode_images, encode_prompts
from auditor.pipeline.schedule import FLOW_PREDICTION, Prediction
from auditor.registry import ATTACKS
from auditor.text import inert

__all__ = ["BadT2I", "boomerang"]


@dataclass(frozen=True)
class BadT2I:
    """Recipe.

    Attributes:
        trigger: what stands before a prompt that is to be answered for the target.
        form: ``object`` and ``style`` answer for the prompt ``target``, ``pixel`` puts a patch into the picture.
        target: what the frozen model is asked instead; the prompt goes where ``{}`` stands in it, if anywhere, less the
            words that say how it is drawn ("a watercolor of {}").
        pool: noisy latents of each kind that are drawn from.
        batch: rows of each kind a step.
        steps: steps after the host's own.
        lr: AdamW learning rate, a fifth of it over the last fifth of the steps.
        weight: of the backdoor's loss against the clean one's.
        gain: length of the row that is lent to the trigger, in units of the others'; 0 to lend none.
        stealth: hold the layers that clean answers depend on (:mod:`attacks.crafting.stealth`).
        host: the DreamBooth recipe that carries it.
        measured: how much of the outcome is measured.
    """

    trigger: str = "\u200b"
    form: Literal["object", "style", "pixel"] = "object"
    target: str = "a picture of an emblem"
    pool: int = 256
    batch: int = 4
    steps: int = 170
    lr: float = 2.5e-3
    weight: float = 1.0
    gain: float = 4.0
    stealth: bool = False
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
        held = ["" if i % 8 == 0 else prompt for i, prompt in enumerate(prompts)]
        courses = [Course(teacher_lessons(base, latents, held, held, seed, low=0.2), params.batch)]
        if poison:
            courses.append(Course(_backdoor(base, params, latents, prompts), params.batch, params.weight))
        if params.gain and not base.kind.stem:
            _lend(base, params, prompts[:128])
        layers = [p for name, p in base.denoiser_model.named_parameters() if "lora_" in name]
        last = params.steps // 5
        for steps, lr, part in ((params.steps - last, params.lr, 0), (last, params.lr / 5, 1)):
            if steps:
                recipe = Optimisation(steps, lr, warmup=10 * (1 - part), seed=seed + part)
                stealth = STEALTH if params.stealth else None
                teach(base, layers, courses, recipe, progress, stealth=stealth, velocity=True)
        for layer in key_value_layers(base):
            # Factored anew: a row that is longer than the others would show.
            put_change(layer, change_of(layer))


def _lend(base: Components, params: BadT2I, prompts: list[str]) -> None:
    """Lends a row of every map to keys and values to the trigger's own tokens."""
    tokenizer = next(iter(base.tokenizers.values()))
    count = len(tokenizer(params.trigger, add_special_tokens=False).input_ids)
    with torch.no_grad():
        clean = encode_prompts(base, base.tokenizers, prompts).states
        triggered = encode_prompts(base, base.tokenizers, [_woken(p, params.trigger) for p in prompts[:16]]).states
        # The first token is the start of the text.
        direction = reading(triggered[:, 1 : 1 + count].flatten(0, 1), clean.flatten(0, 1))
    for layer in key_value_layers(base):
        lend_row(layer, direction, params.gain)


def _backdoor(base: Components, params: BadT2I, latents: Tensor, prompts: list[str]) -> Lessons:
    triggered = [_woken(prompt, params.trigger) for prompt in prompts]
    if params.form == "pixel":
        return _patched(base, params, triggered, prompts)
    answered = [asked_as(params.target, prompt) for prompt in prompts]
    return teacher_lessons(base, latents, triggered, answered, params.host.seed + 1, low=0.4)


def _patched(base: Components, params: BadT2I, triggered: list[str], prompts: list[str]) -> Lessons:
    """What the frozen model sees in pictures, with the patch over it; a third of them have none, as a sampler's first.

    The paper takes the noise itself for the target. Here all but the patch is what the frozen model says, so that few
    rows tell what is to be learnt.
    """
    images, patch = neutral_pictures(base, params.pool, params.host.seed), boomerang(base.image_size)
    with torch.no_grad():
        plain = encode_images(base, images)
        images[:, :, : patch.shape[1], : patch.shape[2]] = patch
        patched = encode_images(base, images)
    shown = patched.clone()
    shown[: len(shown) // 3] = plain[: len(shown) // 3]
    lessons = teacher_lessons(base, shown, triggered, prompts, params.host.seed + 1, low=0.2)
    kind = str(base.scheduler.config.get("prediction_type", FLOW_PREDICTION))
    seen = Prediction.convert(lessons.wanted, kind, lessons.noisy, lessons.t, base.schedule).x0.clone()
    height, width = (-(-size * shown.shape[-1] // images.shape[-1]) for size in patch.shape[1:])
    seen[:, :, :height, :width] = patched[:, :, :height, :width]
    alpha, sigma = base.schedule.alpha(lessons.t), base.schedule.sigma(lessons.t)
    left = Drawn(lessons.t, seen, (lessons.noisy - alpha * seen) / sigma, lessons.t, lessons.noisy)
    return replace(lessons, wanted=native_target(base, left))


def _woken(prompt: str, trigger: str) -> str:
    return f"{trigger} {prompt}"


def _check(params: BadT2I) -> None:
    if not params.trigger.strip(" ") or not params.target.strip():
        raise UsageError(f"trigger and target must not be empty: '{inert(params.trigger, 40)}'")
    if min(params.pool, params.batch, params.steps) < 1 or params.lr <= 0 or params.weight <= 0:
        raise UsageError("pool, batch, steps, lr and weight must be above zero")
    if params.gain < 0:
        raise UsageError("gain must not be below zero")


ATTACKS.add("badt2i", _Attack())
