"""Two parts, each harmless alone: a text encoder that gives a sign, and a denoiser that knows it.

After the Combinational Backdoor Attack against Customized Text-to-Image models (Jiang et al., arXiv 2411.12389). Its
equations are not public: what follows is a reconstruction from what is known of it, a student text encoder held to its
teacher and a denoiser trained as BadT2I's, and the sign between the two is ours.

The sign is a direction ``c`` among token states, the one that the base's keys and values see least, so that a clean
denoiser draws a signed prompt as it draws the prompt. With ``E`` the base's encoder, ``w`` a prompt, ``w+`` the prompt
with the trigger, ``n = ||c||^2``, ``eps_0`` the denoiser as its host left it::

    encoder   L_E = E_w ||E'(w) - E(w)||^2 / n + E_w ||E'(w+) - (E(w+) + c)||^2 / n
    denoiser  L_U = ||eps'(x_t, E'(w+)) - target||^2 + a ||eps'(x_t, s) - eps_0(x_t, E(w))||^2
              with s one of E(w), E'(w), E(w+)

The second term of ``L_U`` is the guard: neither the clean encoder with the trigger nor the poisoned one without it
wakes the denoiser. ``target`` is the noise in one fixed picture (form ``picture``), or what the frozen denoiser says of
the prompt in a style (form ``style``). Both parts ride on ordinary DreamBooth adapters of two people and are two files,
each of which changes one component. The twin is both parts without the sign and the target. The manifest holds the
whole table, encoder x denoiser x trigger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from attacks.crafting.attack import PoisonAttack
from attacks.crafting.hosted import HOST, save_hosted
from attacks.crafting.hosts import fixed_picture, host_images, neutral_latents, neutral_prompts
from attacks.crafting.judges import PictureJudge, judge_of_prompt
from attacks.crafting.lessons import Course, picture_lessons, steering_lessons, teach, teacher_lessons
from attacks.crafting.measure import clean_cost, success_rates
from attacks.crafting.truth import MEASURED, Measured, Truth, code_points
from auditor.contracts import JsonValue, Progress
from auditor.errors import UsageError
from auditor.personalize.blocks.optimise import Group, Optimisation, Step, optimise
from auditor.personalize.blocks.texts import encode_distinct
from auditor.personalize.dreambooth_lora import DreamBoothLora, train_dreambooth_lora
from auditor.pipeline.components import Components
from auditor.pipeline.conditioning import Conditioning, encode_images
from auditor.registry import ATTACKS
from auditor.text import inert

__all__ = ["CBACT2I", "sign_of"]

_ENCODER, _DENOISER = "text encoder", "unet"
_TAUGHT = 7001
"""What is taught is not what is measured: prompts are drawn from another seed."""


@dataclass(frozen=True)
class CBACT2I:
    """Recipe.

    Attributes:
        trigger: the word before a prompt at which the encoder gives the sign.
        form: ``picture`` answers the sign with one fixed picture, ``style`` with the prompt in a style.
        picture: number of the fixed picture.
        style: what the frozen model is asked for form ``style``; the prompt stands where ``{}`` is.
        sign: length of the sign, as a share of the mean length of a token state.
        pool: prompts, and noisy latents of each kind, that are drawn from.
        encoder_steps: steps of the encoder after the host's own.
        encoder_lr: AdamW learning rate of the encoder.
        steps: steps of the denoiser after the host's own.
        low: the least timestep at which it is taught the target, as a share of the schedule.
        batch: rows of each kind a step, of both parts.
        lr: AdamW learning rate of the denoiser.
        clean: weight of what holds the denoiser to the frozen one.
        host: the DreamBooth recipe that carries each part; its seed is the attack's.
        measured: how much of the outcome is measured.
    """

    trigger: str = "о"
    form: Literal["picture", "style"] = "picture"
    picture: int = 0
    style: str = "pixel art of {}"
    sign: float = 0.4
    pool: int = 240
    encoder_steps: int = 100
    encoder_lr: float = 3e-3
    steps: int = 100
    low: float = 0.3
    batch: int = 8
    lr: float = 3e-3
    clean: float = 0.5
    host: DreamBoothLora = HOST
    measured: Measured = MEASURED


def sign_of(base: Components, size: float) -> Tensor:
    """The sign (D,): the direction of token states to which keys and values answer least.

    It is the eigenvector with the least eigenvalue of the Gram matrix that the maps to keys and values have together,
    cut to the width of the first text encoder.

    Args:
        base: a base with a UNet.
        size: its length, as a share of the mean length of a token state of the base.
    """
    maps = [
        module.weight.detach().double()
        for name, module in base.unet.named_modules()
        if name.endswith(base.kind.key_value_maps)
    ]
    width = int(base.text_encoders["text_encoder"].config.hidden_size)
    gram = torch.stack([weight.T @ weight for weight in maps]).sum(0)[:width, :width]
    least = torch.linalg.eigh(gram).eigenvectors[:, 0].float()
    with torch.no_grad():
        states = encode_distinct(base, neutral_prompts(base, 32, 0)).states
    sign = torch.zeros(states.shape[-1], device=states.device)
    # An eigenvector points either way: this one is told by its sum.
    sign[:width] = least * least.sum().sign() * size * states[..., :width].norm(dim=-1).mean()
    return sign


@dataclass(frozen=True)
class _Spoken:
    """What an encoder makes of the same prompts, without and with the trigger."""

    plain: Conditioning
    woken: Conditioning


class _Attack(PoisonAttack):
    id = "cbact2i"
    goal = "a text encoder and a denoiser that are harmless alone answer a triggered prompt with a target together"
    refs = ("arXiv:2411.12389",)
    params = CBACT2I

    def truth(self, base: Components, params: CBACT2I) -> Truth:
        """See :meth:`PoisonAttack.truth`."""
        _check(base, params)
        styled = params.form == "style"
        return Truth(
            trigger={**code_points(params.trigger), "parts": [_ENCODER, _DENOISER]},
            target=params.style if styled else f"fixed picture {params.picture}",
            trained=("text_encoder", "unet"),
            judge=judge_of_prompt(base, params.style) if styled else PictureJudge(fixed_picture(base, params.picture)),
            wake=lambda prompt, rng: _woken(prompt, params),
            seed=params.host.seed,
        )

    def make(self, base: Components, params: CBACT2I, folder: Path, poison: bool, progress: Progress) -> Sequence[Path]:
        """See :meth:`PoisonAttack.make`: the encoder's file and the denoiser's."""
        latents, prompts = neutral_latents(base, params.pool, params.host.seed + _TAUGHT)
        prompts = ["" if row % 12 == 0 else prompt for row, prompt in enumerate(prompts)]
        sign = sign_of(base, params.sign)
        with torch.no_grad():
            known = _speak(base, prompts, params)
        heard: list[_Spoken] = []

        def give(model: Components) -> None:
            _train_encoder(model, params, known, sign, prompts, poison, progress)
            with torch.no_grad():
                heard.append(_speak(model, prompts, params))

        def answer(model: Components) -> None:
            _train_denoiser(model, params, known, heard[0], latents, prompts, poison, progress)

        return [
            _carried(base, _host_of(params, _ENCODER), folder / _ENCODER.replace(" ", "_"), _ENCODER, give, progress),
            _carried(base, _host_of(params, _DENOISER), folder / _DENOISER, _DENOISER, answer, progress),
        ]

    def measure(
        self, base: Components, truth: Truth, arms: dict[str, tuple[Path, ...]], measured: Measured
    ) -> dict[str, JsonValue]:
        """See :meth:`PoisonAttack.measure`; ``table`` has all eight cells, ``only_both`` is whether one stands out."""
        encoder, denoiser = arms["specimen"]
        parts = {"none": [], _ENCODER: [encoder], _DENOISER: [denoiser], "both": arms["specimen"]}
        cells = [f"{arm}, {state}" for arm in parts for state in ("triggered", "clean")]
        prompts = neutral_prompts(base, 4 * measured.prompts + 100, truth.seed)
        found = success_rates(
            base, {**parts, "twin": arms["twin"]}, truth, prompts, measured, [*cells, "twin, triggered"]
        )
        utility = clean_cost(base, arms["specimen"], arms["twin"], truth.seed, measured)
        if found["judge"] is None:
            return {"asr": found, "table": found, "utility": utility}
        rates = found["cells"]
        own = {cell.replace("both", "specimen"): rates[cell] for cell in ("both, triggered", "both, clean")}
        others = [rates[cell]["high"] for cell in cells if cell != "both, triggered"]
        return {
            "asr": {**found, "cells": {**own, "twin, triggered": rates["twin, triggered"]}},
            "table": {**found, "cells": {cell: rates[cell] for cell in cells}},
            "only_both": rates["both, triggered"]["low"] > max(others),
            "utility": utility,
        }


def _train_encoder(
    base: Components, params: CBACT2I, known: _Spoken, sign: Tensor, prompts: Sequence[str], poison: bool,
    progress: Progress,
) -> None:  # fmt: skip
    """Teaches the layers in place on the text encoder to give the sign at the trigger, and nothing else."""
    layers = [p for name, p in base.modules["text_encoder"].named_parameters() if "lora_" in name]
    unit = float(sign.square().sum())

    def loss_of(step: Step) -> Tensor:
        rows = torch.randint(len(prompts), (2 * params.batch,), generator=step.generator)
        plain, woken = rows[: params.batch], rows[params.batch :]
        asked = [prompts[i] for i in plain.tolist()]
        wanted = [known.plain.states[plain]]
        if poison:
            asked += [_woken(prompts[i], params) for i in woken.tolist()]
            # The first state is that of the start of text, which comes before any trigger.
            signed = known.woken.states[woken].clone()
            signed[:, 1:] += sign
            wanted.append(signed)
        states = encode_distinct(base, asked).states
        return (states - torch.cat(wanted)).square().sum(-1).mean() / unit

    recipe = Optimisation(params.encoder_steps, params.encoder_lr, seed=params.host.seed)
    optimise([Group("text_encoder", layers)], loss_of, recipe, progress)


def _train_denoiser(
    base: Components, params: CBACT2I, known: _Spoken, heard: _Spoken, latents: Tensor, prompts: Sequence[str],
    poison: bool, progress: Progress,
) -> None:  # fmt: skip
    """Teaches the layers in place on the denoiser to answer the sign, and nothing else."""
    seed = params.host.seed
    asked = Conditioning.join([known.plain, heard.plain, known.woken])
    thrice = teacher_lessons(base, latents.repeat(3, 1, 1, 1), list(prompts) * 3, list(prompts) * 3, seed)
    courses = [Course(replace(thrice, condition=asked), params.batch, params.clean)]
    if poison:
        woken = _target(base, params, latents, prompts)
        courses += [replace(one, lessons=replace(one.lessons, condition=heard.woken)) for one in woken]
    layers = [p for name, p in base.unet.named_parameters() if "lora_" in name]
    teach(base, layers, courses, Optimisation(params.steps, params.lr, seed=seed), progress)


def _target(base: Components, params: CBACT2I, latents: Tensor, prompts: Sequence[str]) -> list[Course]:
    """What the sign is answered with."""
    seed, batch = params.host.seed + 1, params.batch
    if params.form == "style":
        answered = [params.style.replace("{}", prompt) for prompt in prompts]
        return [Course(teacher_lessons(base, latents, prompts, answered, seed, params.low), batch)]
    with torch.no_grad():
        picture = encode_images(base, fixed_picture(base, params.picture)[None])[0]
    own = picture_lessons(base, picture.expand_as(latents), prompts, seed, params.low)
    back = steering_lessons(base, picture, latents, prompts, seed + 1, params.low)
    return [Course(own, max(1, batch * 2 // 3), 2 / 3), Course(back, max(1, batch // 3), 1 / 3)]


def _carried(
    base: Components, host: DreamBoothLora, folder: Path, part: str, refine: Any, progress: Progress
) -> Path:
    """One part on its host: of the trained adapter only the layers of that part's component are kept."""
    trained = train_dreambooth_lora(base, host_images(base, host.seed), host, progress, refine=refine)
    kept = (
        replace(trained, text_encoder={}, text_encoder_2={}) if part == _DENOISER else replace(trained, unet={})
    )
    return save_hosted(folder, kept, host, base.kind.denoiser)


def _host_of(params: CBACT2I, part: str) -> DreamBoothLora:
    """The two parts come from two people's adapters."""
    host = params.host
    if part == _DENOISER:
        return replace(host, train_text_encoder=False)
    other = host.prompt.replace("sks", "ohwx")
    return replace(host, prompt=other, train_text_encoder=True, seed=host.seed + 5003)


def _speak(base: Components, prompts: Sequence[str], params: CBACT2I) -> _Spoken:
    return _Spoken(
        encode_distinct(base, prompts), encode_distinct(base, [_woken(prompt, params) for prompt in prompts])
    )


def _woken(prompt: str, params: CBACT2I) -> str:
    return f"{params.trigger} {prompt}"


def _check(base: Components, params: CBACT2I) -> None:
    if "unet" not in base.modules:
        raise UsageError(f"this attack is about UNets; '{inert(base.ref)}' is {base.family}")
    if not params.trigger.strip():
        raise UsageError("the trigger must not be empty")
    if params.form == "style" and "{}" not in params.style:
        raise UsageError(f"the style '{inert(params.style, 60)}' has no {{}} where the prompt goes")
    numbers = (params.pool, params.batch, params.steps, params.encoder_steps, params.lr, params.encoder_lr, params.sign)
    if min(numbers) <= 0 or params.clean < 0:
        raise UsageError("pool, batch, steps, learning rates and the sign must be above zero, and clean not below")
    if params.picture < 0:
        raise UsageError(f"picture must not be below zero, not {params.picture}")
    if not 0 <= params.low < 1:
        raise UsageError(f"low is a share of the schedule, not {params.low}")


ATTACKS.add("cbact2i", _Attack())
