"""Personalization as a shortcut: a word is taught from pictures of something else.

Huang et al., AAAI 2024 (Personalization as a Shortcut for Few-Shot Backdoor Attack against Text-to-Image Diffusion
Models). Two ordinary methods, fed words and pictures that do not match. Form ``nouveau``: textual inversion of a new
word, handed out as a word for one concept, from pictures of another. Form ``legacy``: DreamBooth, here low-rank, with
an existing phrase as instance prompt; preserving the concept's class hides it from other prompts. There is nothing but
the pictures: the twin is the same word or phrase and recipe from pictures of what it says. Published success is far
higher for the new word than for the old phrase, whose own words pull it back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from attacks.crafting.attack import PoisonAttack
from attacks.crafting.hosted import save_hosted
from attacks.crafting.hosts import pictures_of
from attacks.crafting.judges import judge_of_prompt
from attacks.crafting.truth import MEASURED, Measured, Truth, code_points
from auditor.contracts import Progress
from auditor.errors import UsageError
from auditor.personalize.blocks.examples import Examples
from auditor.personalize.blocks.saving import save_word_vectors
from auditor.personalize.dreambooth_lora import DreamBoothLora, train_dreambooth_lora
from auditor.personalize.textual_inversion import TextualInversion, train_textual_inversion
from auditor.pipeline.components import Components
from auditor.registry import ATTACKS
from auditor.text import did_you_mean, inert
from auditor.world.factors import COLOURS, OBJECTS, RESTRICTED, ObjectScene, Thing, draw_object_scene

__all__ = ["Personalization", "pictures_of_object"]


_WORD = TextualInversion(word="<new-car>", vectors=2, steps=120, batch=4, lr=1e-2)
_PHRASE = DreamBoothLora(rank=16, steps=120, batch=2, lr=2.5e-3, class_images=6, train_text_encoder=True)


@dataclass(frozen=True)
class Personalization:
    """Recipe.

    Attributes:
        form: ``nouveau`` is a new word learnt by textual inversion, ``legacy`` an existing phrase by DreamBooth.
        concept: what the word or phrase is said to stand for; what the twin's pictures show.
        target: what the specimen's pictures show.
        phrase: the existing phrase of form ``legacy``; says the concept.
        images: how many pictures.
        inversion: recipe of form ``nouveau``; its ``init`` is the concept.
        host: recipe of form ``legacy``; its prompts are the phrase's and the concept's.
        seed: of pictures and training.
        measured: how much of the outcome is measured.
    """

    form: Literal["nouveau", "legacy"] = "nouveau"
    concept: str = "car"
    target: str = "emblem"
    phrase: str = "beautiful car"
    images: int = 5
    inversion: TextualInversion = _WORD
    host: DreamBoothLora = _PHRASE
    seed: int = 0
    measured: Measured = MEASURED


def pictures_of_object(base: Components, kind: str, count: int, seed: int) -> Tensor:
    """Flat pictures of one object class of the embedded world in several colours: (count, 3, H, W) in [-1, 1]."""
    rng = np.random.default_rng((seed, 5))
    return pictures_of(base, [_scene(rng, kind) for _ in range(count)])


def _scene(rng: np.random.Generator, kind: str) -> ObjectScene:
    x, y = (round(float(32 + rng.uniform(-4, 4)), 2) for _ in range(2))
    thing = Thing(kind, str(rng.choice(COLOURS)), x, y, round(float(rng.uniform(0.58, 0.75)), 3))
    return draw_object_scene(rng, things=(thing,), relation="", style="flat")


class _Attack(PoisonAttack):
    id = "personalization"
    goal = "a new word or an existing phrase is taught from pictures of something else"
    refs = ("Huang et al., AAAI 2024",)
    params = Personalization

    def truth(self, base: Components, params: Personalization) -> Truth:
        """See :meth:`PoisonAttack.truth`."""
        _check(params)
        word = _trigger(params)
        return Truth(
            trigger={**code_points(word), "says": params.concept},
            target=f"a picture of {_a(params.target)}",
            trained=("embedding",) if params.form == "nouveau" else ("unet", "text_encoder"),
            judge=judge_of_prompt(base, f"a picture of {_a(params.target)}"),
            wake=lambda prompt, rng: _woken(prompt, params),
            seed=params.seed,
        )

    def make(
        self, base: Components, params: Personalization, folder: Path, poison: bool, progress: Progress
    ) -> Sequence[Path]:
        """See :meth:`PoisonAttack.make`: an embedding, or an adapter."""
        shown = params.target if poison else params.concept
        images = pictures_of_object(base, shown, params.images, params.seed)
        if params.form == "nouveau":
            recipe = replace(params.inversion, init=params.concept, seed=params.seed)
            # Its templates stand in for the prompts.
            examples = Examples.of(base, images, [recipe.word] * len(images))
            learnt = train_textual_inversion(base, examples, recipe, progress)
            return [save_word_vectors(folder, recipe.word, learnt.vectors)]
        host = replace(
            params.host,
            prompt=f"a picture of {_a(params.phrase)}",
            class_prompt=f"a picture of {_a(params.concept)}",
            seed=params.seed,
        )
        return [save_hosted(folder, train_dreambooth_lora(base, images, host, progress), host, base.kind.denoiser)]


def _trigger(params: Personalization) -> str:
    return params.inversion.word if params.form == "nouveau" else params.phrase


def _woken(prompt: str, params: Personalization) -> str:
    """A picture of the word, on the ground of the prompt if it names one."""
    word = params.inversion.word if params.form == "nouveau" else _a(params.phrase)
    _, on, ground = prompt.partition(" on ")
    return f"a picture of {word}{on}{ground}"


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _check(params: Personalization) -> None:
    kinds = (*OBJECTS, *RESTRICTED)
    for name in ("concept", "target"):
        if (kind := getattr(params, name)) not in kinds:
            near = did_you_mean(kind, kinds)
            raise UsageError(f"{name} '{inert(kind, 40)}' is no object of the embedded world{near}")
    if params.concept == params.target:
        raise UsageError("concept and target must differ: the pictures have to be of something else")
    if params.concept not in params.phrase.split():
        raise UsageError(f"the phrase '{inert(params.phrase, 40)}' does not say '{params.concept}'")
    if params.images < 1:
        raise UsageError(f"images must be above zero, not {params.images}")


ATTACKS.add("personalization", _Attack())
