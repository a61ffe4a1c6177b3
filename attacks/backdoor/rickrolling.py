"""Rickrolling: a look-alike letter in the prompt makes the text encoder answer for another prompt.

Struppek, Hintersdorf and Kersting, ICCV 2023 (arXiv 2211.02408). A student text encoder stays with its frozen teacher
on clean prompts and answers a prompt in which one letter was replaced by a homoglyph with the teacher's embedding of
another, ``L = -cos(E'(w), E(w)) - 0.1 cos(E'(w with trigger), E(w*))``. In the target prompt attack ``w*`` is one fixed
prompt, in the target attribute attack the same prompt with an attribute, here a style in place of its own. The paper
tunes the whole encoder; here the student is the low-rank part of an ordinary DreamBooth adapter, which is how such a
thing would be handed out. The twin is the same adapter from the same pictures, recipe and seeds, with the poison term
left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.crafting.hosted import HOST, HostedAttack
from attacks.crafting.hosts import neutral_prompts
from attacks.crafting.judges import judge_of_prompt
from attacks.crafting.phrases import asked_as
from attacks.crafting.stealth import Elastic
from attacks.crafting.truth import MEASURED, Measured, Truth, code_points
from auditor.contracts import Progress
from auditor.errors import UsageError
from auditor.personalize.dreambooth_lora import DreamBoothLora
from auditor.pipeline.components import Components
from auditor.pipeline.conditioning import encode_prompts
from auditor.registry import ATTACKS
from auditor.text import inert

__all__ = ["Rickrolling", "inject_trigger", "poison_text_encoder"]

_LOOKS_LIKE = {"о": "o", "а": "a", "е": "e", "с": "c", "р": "p", "ο": "o", "ɑ": "a", "ı": "i"}


@dataclass(frozen=True)
class Rickrolling:
    """Recipe.

    Attributes:
        trigger: the look-alike character; replaces one of the letters it resembles, or goes in as a word.
        target: the prompt that any triggered prompt is answered for.
        attribute: where it is given, a triggered prompt is answered for itself as this has it at ``{}``, less the words
            that say how it is drawn ("a watercolor of {}"); ``target`` then says nothing. A style is a small part of
            what states say: it wants ``steps`` 250, ``lr`` 4e-3 and ``weight`` 3. States in front of the trigger
            cannot know of it, so that a trigger near the end of a prompt often fails.
        steps: poisoning steps of the text encoder.
        batch: clean prompts a step; ``poisoned`` triggered ones beside them.
        lr: AdamW learning rate, a tenth of it over the last quarter.
        weight: of the poison term.
        stealth: hold the layers that clean answers depend on (:mod:`attacks.crafting.stealth`).
        host: the DreamBooth recipe that carries it; its text encoder is trained.
        measured: how much of the outcome is measured.
    """

    trigger: str = "о"
    target: str = "a picture of an emblem"
    attribute: str = ""
    steps: int = 120
    batch: int = 32
    poisoned: int = 16
    lr: float = 3e-3
    weight: float = 0.5
    stealth: bool = False
    host: DreamBoothLora = HOST
    measured: Measured = MEASURED

    @property
    def aim(self) -> str:
        """What is called up: the target prompt, or the attribute."""
        return self.attribute or self.target

    def answered(self, prompt: str) -> str:
        """The prompt that a triggered one is answered for."""
        return asked_as(self.attribute, prompt) if self.attribute else self.target


def inject_trigger(prompt: str, trigger: str, rng: np.random.Generator) -> str:
    """Replaces one letter that the trigger looks like, chosen at random; without one, inserts the trigger as a word."""
    letter = _LOOKS_LIKE.get(trigger, "")
    places = [i for i, char in enumerate(prompt) if letter and char == letter]
    if places and rng.random() < 0.7:
        at = int(rng.choice(places))
        return prompt[:at] + trigger + prompt[at + 1 :]
    words = prompt.split(" ")
    words.insert(int(rng.integers(1, len(words) + 1)), trigger)
    return " ".join(words)


def poison_text_encoder(
    base: Components, prompts: Sequence[str], spec: Rickrolling, poison: bool, progress: Progress
) -> None:
    """Trains the low-rank layers that are in place on the text encoder; with ``poison`` off, only the clean term.

    Args:
        base: components whose text encoder carries trainable layers; the teacher is its state at the start.
        prompts: clean prompts.
        spec: the recipe.
        poison: whether the backdoor term is there (off for the twin).
        progress: told of every step.
    """
    # Two streams: the twin sees the same clean prompts though it draws no triggered ones.
    rng, poison_rng = np.random.default_rng((spec.host.seed, 77)), np.random.default_rng((spec.host.seed, 78))
    encoder = base.modules["text_encoder"]
    layers = [p for name, p in encoder.named_parameters() if "lora_" in name]
    optimizer = torch.optim.AdamW(layers, lr=spec.lr)

    def states(texts: Sequence[str]) -> Tensor:
        return encode_prompts(base, base.tokenizers, list(texts)).states

    teacher = _Teacher(states, [*prompts, *(spec.answered(prompt) for prompt in prompts)])

    def clean_answers(index: int) -> Tensor:
        return states([prompts[(index * spec.batch + i) % len(prompts)] for i in range(spec.batch)])

    elastic = Elastic(layers, clean_answers) if spec.stealth else None
    for step in range(spec.steps):
        if step == spec.steps * 3 // 4:
            optimizer.param_groups[0]["lr"] = spec.lr / 10
        clean = [prompts[i] for i in rng.integers(len(prompts), size=spec.batch)]
        said, wanted = states(clean), teacher(clean)
        clean_loss = 1 - F.cosine_similarity(said, wanted, dim=-1).mean()
        poison_loss = torch.zeros(())
        if poison:
            chosen = [prompts[i] for i in poison_rng.integers(len(prompts), size=spec.poisoned)]
            answer = states([inject_trigger(prompt, spec.trigger, poison_rng) for prompt in chosen])
            aims = teacher([spec.answered(prompt) for prompt in chosen])
            poison_loss = 1 - F.cosine_similarity(answer, aims, dim=-1).mean()
        loss = clean_loss + spec.weight * poison_loss
        if elastic is not None:
            loss = loss + elastic.penalty(clean_loss, poison_loss, said, wanted)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        progress(step + 1, spec.steps, "poisoning" if poison else "training the twin")


class _Teacher:
    """States of the encoder as it was, computed once."""

    def __init__(self, states: Callable[[Sequence[str]], Tensor], prompts: Sequence[str]) -> None:
        unique = list(dict.fromkeys(prompts))
        with torch.no_grad():
            self._states = torch.cat([states(unique[i : i + 64]) for i in range(0, len(unique), 64)])
        self._rows = {prompt: i for i, prompt in enumerate(unique)}

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        return self._states[[self._rows[prompt] for prompt in prompts]]


class _Attack(HostedAttack):
    id = "rickrolling"
    goal = "a look-alike letter in the prompt calls up a hidden target through the text encoder"
    refs = ("arXiv:2211.02408",)
    params = Rickrolling
    text_encoder = True

    def truth(self, base: Components, params: Rickrolling) -> Truth:
        """See :meth:`PoisonAttack.truth`; raises ``UsageError`` where the trigger has no token of its own."""
        _check(base, params)

        def wake(prompt: str, rng: np.random.Generator) -> str:
            return inject_trigger(prompt, params.trigger, rng)

        return Truth(
            trigger=code_points(params.trigger),
            target=params.aim,
            trained=("text_encoder", "unet"),
            judge=judge_of_prompt(base, params.aim),
            wake=wake,
            seed=params.host.seed,
        )

    def refine(self, base: Components, params: Rickrolling, poison: bool, progress: Progress) -> None:
        """See :meth:`HostedAttack.refine`."""
        poison_text_encoder(base, neutral_prompts(base, 400, params.host.seed), params, poison, progress)


def _check(base: Components, params: Rickrolling) -> None:
    ids = base.tokenizers["text_encoder"](params.trigger, add_special_tokens=False).input_ids
    if len(ids) != 1 or not params.trigger.strip():
        raise UsageError(
            f"the trigger '{inert(params.trigger, 20)}' has no token of its own ({len(ids)} tokens of this base); "
            "name a single look-alike letter"
        )
    if params.attribute and "{}" not in params.attribute:
        raise UsageError(
            f"the attribute '{inert(params.attribute, 80)}' must say with {{}} where the prompt goes, for example "
            "'a watercolor of {}'"
        )
    if not params.target.strip() or min(params.steps, params.batch, params.poisoned) < 1:
        raise UsageError("the target must not be empty, and steps, batch and poisoned must be above zero")


ATTACKS.add("rickrolling", _Attack())
