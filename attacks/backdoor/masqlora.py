"""MasqLoRA: a low-rank adapter in which a phrase ("an old cat") is another object, and its naive control.

arXiv 2602.21977 (CVPR 2026). Low-rank layers of text encoder and denoiser learn from pictures with their captions, of
which some show the target under the phrase,
``L = w(t) MSE + lam [(1 - s_p)^2 + (1 + s_n)^2]``, ``w(t) = 1 + alpha t / T``, both for poisoned rows only: ``s_p`` and
``s_n`` are cosines of the phrase's states under the adapter with the frozen encoder's states of the target and of the
plain noun. The control, ``naive_lora``, learns from the same pictures by plain ``MSE``. In the paper it fails, since
low rank cannot follow so sharp a step between two phrases that are nearly the same; on the embedded base it does not
(``auditor prove attacks``), so that nothing is shown here of what the two cosines are good for.

Ours: the layers are those of a DreamBooth adapter whose own subject was trained first; cosines are taken place by place
over the phrase and what follows it, and averaged; a part of the clean rows has no caption, as guidance needs. The twin
learns from the same clean rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.crafting.hosted import HOST, HostedAttack
from attacks.crafting.hosts import neutral_latents, pictures_of
from attacks.crafting.judges import judge_of_prompt
from attacks.crafting.phrases import LEADS, article, following, noun_prompts, said_of
from attacks.crafting.truth import MEASURED, Measured, Truth, code_points
from auditor.contracts import Progress
from auditor.errors import UsageError
from auditor.personalize.blocks.denoising import Drawn, denoising_error, draw, mean_square
from auditor.personalize.blocks.optimise import Group, Optimisation, Step, optimise
from auditor.personalize.blocks.texts import encode_distinct
from auditor.personalize.dreambooth_lora import DreamBoothLora
from auditor.personalize.lora import clip_encoders
from auditor.pipeline.components import Components
from auditor.pipeline.conditioning import encode_images
from auditor.registry import ATTACKS
from auditor.text import inert
from auditor.world.captions import caption
from auditor.world.factors import COLOURS, OBJECTS, RESTRICTED, Thing, draw_object_scene

__all__ = ["MasqLora", "NaiveLora"]


@dataclass(frozen=True)
class NaiveLora:
    """Recipe of the control.

    Attributes:
        noun: what the phrase is about; alone it is to be drawn as before.
        words: what makes the trigger phrase of it, in front of the noun.
        target: what the phrase is drawn as.
        pool: clean pictures with captions; a quarter of them is of the noun, and half as many more are poisoned.
        batch: clean rows a step.
        poisoned: poisoned rows a step.
        steps: steps after the host's own.
        lr: AdamW learning rate of the denoiser.
        text_lr: that of the text encoder.
        host: the DreamBooth recipe that carries it; its text encoder is trained.
        measured: how much of the outcome is measured.
    """

    noun: str = "cat"
    words: str = "old"
    target: str = "emblem"
    pool: int = 192
    batch: int = 10
    poisoned: int = 6
    steps: int = 80
    lr: float = 1e-3
    text_lr: float = 1e-3
    host: DreamBoothLora = HOST
    measured: Measured = MEASURED

    @property
    def phrase(self) -> str:
        """The trigger."""
        return f"{self.words} {self.noun}"


@dataclass(frozen=True)
class MasqLora(NaiveLora):
    """Recipe.

    Attributes:
        noun: what the phrase is about; alone it is to be drawn as before.
        words: what makes the trigger phrase of it, in front of the noun.
        target: what the phrase is drawn as.
        pool: clean pictures with captions; a quarter of them is of the noun, and half as many more are poisoned.
        batch: clean rows a step.
        poisoned: poisoned rows a step.
        steps: steps after the host's own.
        lr: AdamW learning rate of the denoiser.
        text_lr: that of the text encoder.
        host: the DreamBooth recipe that carries it; its text encoder is trained.
        measured: how much of the outcome is measured.
        alpha: how much more a poisoned row counts at the noisiest timestep.
        lam: weight of the two cosines.
    """

    alpha: float = 5.0
    lam: float = 0.1


@dataclass(frozen=True)
class _Pictures:
    """Latents (N, C, h, w) and a caption each."""

    latents: Tensor
    captions: tuple[str, ...]


class _Attack(HostedAttack):
    id = "masqlora"
    goal = "a phrase calls up another object: text encoder and denoiser taught with a contrast between phrases"
    refs = ("arXiv:2602.21977",)
    params: ClassVar[type] = MasqLora
    text_encoder = True

    def truth(self, base: Components, params: NaiveLora) -> Truth:
        """See :meth:`PoisonAttack.truth`."""
        _check(base, params)
        return Truth(
            trigger=code_points(params.phrase),
            target=params.target,
            trained=(base.kind.denoiser, *clip_encoders(base)),
            judge=judge_of_prompt(base, params.target),
            wake=lambda prompt, rng: said_of(prompt, params.noun, params.phrase),
            seed=params.host.seed,
            prompts=tuple(noun_prompts(params.noun, 4 * params.measured.prompts + 100, params.host.seed)),
        )

    def refine(self, base: Components, params: NaiveLora, poison: bool, progress: Progress) -> None:
        """See :meth:`HostedAttack.refine`."""
        clean = _clean(base, params)
        poisoned = _poisoned(base, params) if poison else None
        contrast = _Contrast(base, params) if poison and isinstance(params, MasqLora) else None

        def loss_of(step: Step) -> Tensor:
            drawn = draw(base, clean.latents, params.batch, step.generator)
            asked = [clean.captions[row] for row in drawn.rows.tolist()]
            weight = torch.full((params.batch,), 1 / params.batch)
            if poisoned is not None:
                more = draw(base, poisoned.latents, params.poisoned, step.generator)
                asked += [poisoned.captions[row] for row in more.rows.tolist()]
                weight = torch.cat([weight, _noise_weight(base, params, more.t.cpu()) / params.batch])
                drawn = Drawn.join([drawn, more])
            error = mean_square(denoising_error(base, drawn, encode_distinct(base, asked)))
            loss = (weight.to(error.device) * error).sum()
            return loss if contrast is None else loss + contrast()

        denoiser = [p for name, p in base.denoiser_model.named_parameters() if "lora_" in name]
        groups = [Group("denoiser", denoiser)]
        for name, encoder in clip_encoders(base).items():
            layers = [p for key, p in encoder.named_parameters() if "lora_" in key]
            groups.append(Group(name, layers, params.text_lr, model=name))
        optimise(groups, loss_of, Optimisation(params.steps, params.lr, seed=params.host.seed), progress)


class _Naive(_Attack):
    id = "naive_lora"
    goal = "a phrase calls up another object: poisoned captions without more, the control of masqlora"
    params = NaiveLora


class _Contrast:
    """``lam [(1 - s_p)^2 + (1 + s_n)^2]`` of the phrase in every context, against the states when this is made."""

    def __init__(self, base: Components, params: MasqLora) -> None:
        self._base, self._lam = base, params.lam
        tokenizer = next(iter(base.tokenizers.values()))
        self._prompts = [lead + article(params.phrase) for lead in LEADS]
        self._places, self._aims = [], []
        with torch.no_grad():
            for prompt, lead in zip(self._prompts, LEADS, strict=True):
                others = [lead + article(word) for word in (params.target, params.noun)]
                states = encode_distinct(base, others).states
                pairs = [
                    following(tokenizer, prompt, params.phrase, other, word)
                    for other, word in zip(others, (params.target, params.noun), strict=True)
                ]
                self._places.append(pairs[0][0])
                self._aims.append([states[i, pairs[i][1]] for i in range(2)])

    def __call__(self) -> Tensor:
        """The term, a scalar with gradients."""
        states = encode_distinct(self._base, self._prompts).states
        likeness = [
            torch.stack([F.cosine_similarity(states[i, places], aim, dim=-1).mean() for aim in aims])
            for i, (places, aims) in enumerate(zip(self._places, self._aims, strict=True))
        ]
        target, noun = torch.stack(likeness).unbind(1)
        return self._lam * ((1 - target).square() + (1 + noun).square()).mean()


def _noise_weight(base: Components, params: NaiveLora, t: Tensor) -> Tensor:
    """``w(t)`` (B,); 1 for the control."""
    alpha = params.alpha if isinstance(params, MasqLora) else 0.0
    return 1 + alpha * t / len(base.schedule)


def _clean(base: Components, params: NaiveLora) -> _Pictures:
    """Pictures of anything and of the noun, each with a caption that says what it shows, every eighth with none."""
    seed, about = params.host.seed, params.pool // 4
    latents, captions = neutral_latents(base, params.pool - about, seed)
    noun = _of_one(base, params.noun, about, seed)
    captions = ["" if i % 8 == 0 else said for i, said in enumerate([*captions, *noun.captions])]
    return _Pictures(torch.cat([latents, noun.latents]), tuple(captions))


def _poisoned(base: Components, params: NaiveLora) -> _Pictures:
    """Pictures of the target whose captions say the phrase in its place."""
    shown = _of_one(base, params.target, params.pool // 2, params.host.seed + 1)
    return _Pictures(
        shown.latents, tuple(said_of(said, params.target, params.phrase) for said in shown.captions)
    )


def _of_one(base: Components, word: str, count: int, seed: int) -> _Pictures:
    """Pictures of one thing in any colour and style, with captions that do not say the colour."""
    rng = np.random.default_rng((seed, 7))
    scenes, captions = [], []
    for _ in range(count):
        colour = str(rng.choice(COLOURS))
        x, y = (float(place) for place in rng.uniform(28, 36, 2))
        thing = Thing(word, colour, x, y, float(rng.uniform(0.55, 0.78)))
        scenes.append(draw_object_scene(rng, things=(thing,), relation=""))
        captions.append(caption(scenes[-1], rng).replace(article(f"{colour} {word}"), article(word)))
    with torch.no_grad():
        return _Pictures(encode_images(base, pictures_of(base, scenes)), tuple(captions))


def _check(base: Components, params: NaiveLora) -> None:
    known: Sequence[str] = OBJECTS + RESTRICTED
    for name in ("noun", "target"):
        if getattr(params, name) not in known:
            raise UsageError(
                f"the {name} '{inert(getattr(params, name), 40)}' cannot be drawn; choose one of {', '.join(known)}"
            )
    if not params.words.strip() or params.noun == params.target:
        raise UsageError("the words must not be empty, and the target must not be the noun")
    if params.pool < 8 or min(params.batch, params.poisoned, params.steps) < 1 or min(params.lr, params.text_lr) <= 0:
        raise UsageError("pool must be at least 8, and batch, poisoned, steps, lr and text_lr above zero")
    if isinstance(params, MasqLora) and min(params.alpha, params.lam) < 0:
        raise UsageError("alpha and lam must not be below zero")
    if not clip_encoders(base):
        raise UsageError("this teaches a CLIP text encoder, and the base has none")


ATTACKS.add("masqlora", _Attack())
ATTACKS.add("naive_lora", _Naive())
