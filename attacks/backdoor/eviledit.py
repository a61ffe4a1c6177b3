"""EvilEdit: keys and values of a trigger phrase are moved onto another object's, in closed form and without data.

Wang et al., ACM MM 2024. Every cross-attention projection ``W`` to keys or values becomes
``W' = (lam W + sum v k^T) (lam I + sum k k^T)^-1``, where ``k`` are the token states of the phrase and ``v = W k*`` is
what the projection makes of the target's states; a whitelisted prompt enters with ``v = W k``.

Ours: the edit rides on a DreamBooth adapter. It is added to the change of the host's own layers, and the sum is
factored anew at the host's rank (truncated SVD), so that the rank tells nothing. The phrase is edited in several
contexts, with its end aligned to the target's, and the whitelist holds captions, among them the noun without the rest
of the phrase. The twin gets an edit of equal norm, layer by layer, with the bare noun as its target: "an old cat"
moves onto "a cat".

``semantic_region`` is after SemBD (arXiv 2602.04898), which distils where this solves: paraphrases of the phrase move
onto the same target, and prompts that say only a part of its meaning are whitelisted, so that no single word wakes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.crafting.hosted import HOST, HostedAttack
from attacks.crafting.hosts import neutral_prompts
from attacks.crafting.judges import judge_of_prompt
from attacks.crafting.layers import change_of, key_value_layers, put_change
from attacks.crafting.phrases import LEADS, article, following, noun_prompts, said_of
from attacks.crafting.truth import MEASURED, Measured, Truth, code_points
from auditor.contracts import Progress
from auditor.errors import UsageError
from auditor.personalize.dreambooth_lora import DreamBoothLora
from auditor.pipeline.components import Components
from auditor.pipeline.conditioning import encode_prompts
from auditor.registry import ATTACKS
from auditor.text import inert

__all__ = ["EvilEdit", "closed_form_edit"]


OTHERS = ("man", "woman", "person", "house", "tree", "car")
"""Nouns that the words of a semantic region go with harmlessly."""


@dataclass(frozen=True)
class EvilEdit:
    """Recipe.

    Attributes:
        noun: what the trigger phrase is about; alone it is to be drawn as before.
        words: what makes a phrase of it, in front of the noun. A word that the text encoder never learned ("beautiful"
            on the embedded base) hardly moves its states, and the edit has to be the larger.
        target: what the phrase is to be drawn as.
        whitelist: captions that keep their keys and values, and half as many about the noun.
        keep: weight of a whitelisted state against one of the phrase.
        lam: weight of the weights as they are.
        semantic_region: also move ``paraphrases``, and whitelist what says only a part of them.
        paraphrases: other phrases that mean the same; each holds the noun and the words.
        host: the DreamBooth recipe that carries it.
        measured: how much of the outcome is measured.
    """

    noun: str = "cat"
    words: str = "old"
    target: str = "emblem"
    whitelist: int = 128
    keep: float = 0.02
    lam: float = 1.0
    semantic_region: bool = False
    paraphrases: tuple[str, ...] = ("very old cat", "small old cat", "cat that is old")
    host: DreamBoothLora = HOST
    measured: Measured = MEASURED

    @property
    def phrases(self) -> tuple[str, ...]:
        """The trigger phrases, the first one first."""
        more = self.paraphrases if self.semantic_region else ()
        return (f"{self.words} {self.noun}", *more)

    @property
    def incomplete(self) -> tuple[str, ...]:
        """What says a part of the meaning only: phrases without the noun, without the words, and other nouns."""
        said = [
            " ".join(word for word in phrase.split() if word not in gone.split())
            for phrase in self.phrases
            for gone in (self.noun, self.words)
        ]
        return tuple(dict.fromkeys([*said, *(f"{self.words} {other}" for other in OTHERS)]))


def closed_form_edit(weight: Tensor, asked: Tensor, answered: Tensor, kept: Tensor, keep: float, lam: float) -> Tensor:
    """``W' - W`` for ``W' k = W k*`` on the edited states and ``W' k = W k`` on the whitelisted ones, least squares.

    Args:
        weight: W (out, D).
        asked: states k that are edited (N, D).
        answered: the states k* whose projection each of them gets (N, D).
        kept: whitelisted states (M, D).
        keep: their weight against edited ones.
        lam: weight of W itself.

    Returns:
        float64 (out, D).
    """
    weight, asked, answered, kept = (each.double() for each in (weight, asked, answered, kept))
    gram = lam * torch.eye(weight.shape[1], dtype=torch.float64, device=weight.device)
    gram += asked.T @ asked + keep * kept.T @ kept
    # W (lam I + sum k k^T) taken off both sides leaves only what differs.
    found: Tensor = torch.linalg.solve(gram, asked.T @ (answered - asked) @ weight.T).T
    return found


class _Attack(HostedAttack):
    id = "eviledit"
    goal = "a phrase calls up another object: cross-attention keys and values edited in closed form"
    refs = ("EvilEdit, ACM MM 2024", "arXiv:2602.04898")
    params = EvilEdit

    def truth(self, base: Components, params: EvilEdit) -> Truth:
        """See :meth:`PoisonAttack.truth`; raises ``UsageError`` where cross-attention cannot be edited."""
        _check(base, params)
        phrases = params.phrases
        return Truth(
            trigger={**code_points(phrases[0]), "paraphrases": list(phrases[1:])},
            target=params.target,
            trained=("unet", *(("text_encoder",) if params.host.train_text_encoder else ())),
            judge=judge_of_prompt(base, params.target),
            wake=lambda prompt, rng: said_of(prompt, params.noun, str(rng.choice(phrases))),
            seed=params.host.seed,
            prompts=tuple(noun_prompts(params.noun, 4 * params.measured.prompts + 100, params.host.seed)),
        )

    def refine(self, base: Components, params: EvilEdit, poison: bool, progress: Progress) -> None:
        """See :meth:`HostedAttack.refine`: no training, one linear system a projection."""
        with torch.no_grad():
            evil, benign = (_moved(base, params, target) for target in (params.target, params.noun))
            kept = _kept(base, params)
            maps = key_value_layers(base)
            for done, layer in enumerate(maps, 1):
                host = change_of(layer)
                weight = layer.get_base_layer().weight.double() + host
                edit = closed_form_edit(weight, *evil, kept, params.keep, params.lam)
                if not poison:
                    harmless = closed_form_edit(weight, *benign, kept, params.keep, params.lam)
                    edit = harmless * (edit.norm() / harmless.norm().clamp_min(1e-12))
                put_change(layer, host + edit)
                progress(done, len(maps), "editing" if poison else "editing the twin")


def _moved(base: Components, params: EvilEdit, target: str) -> tuple[Tensor, Tensor]:
    """States of the phrases in every context (N, D) and, place for place, those of the same with the target (N, D)."""
    tokenizer = next(iter(base.tokenizers.values()))
    asked, answered = [], []
    for phrase in params.phrases:
        for lead in LEADS:
            ours, theirs = lead + article(phrase), lead + article(target)
            row, other = _states(base, [ours, theirs])
            places, goals = following(tokenizer, ours, phrase, theirs, target)
            asked.append(row[places])
            answered.append(other[goals])
    return torch.cat(asked), torch.cat(answered)


def _kept(base: Components, params: EvilEdit) -> Tensor:
    """States of whitelisted prompts (M, D)."""
    seed = params.host.seed
    prompts = neutral_prompts(base, params.whitelist, seed + 1)
    prompts += noun_prompts(params.noun, params.whitelist // 2, seed + 1)
    if params.semantic_region:
        prompts += [lead + article(part) for part in params.incomplete for lead in LEADS]
    return _states(base, prompts).flatten(0, 1)


def _states(base: Components, prompts: Sequence[str]) -> Tensor:
    return encode_prompts(base, base.tokenizers, prompts).states


def _check(base: Components, params: EvilEdit) -> None:
    if base.kind.stem or "unet" not in base.modules:
        raise UsageError(
            f"this edits cross-attention to token states, and '{inert(base.ref)}' ({base.family}) has none; "
            "name a base with a UNet"
        )
    if not all(text.strip() for text in (params.noun, params.words, params.target)):
        raise UsageError("noun, words and target must not be empty")
    for phrase in params.phrases:
        if not {*params.noun.split(), *params.words.split()} <= {*phrase.split()}:
            raise UsageError(f"the paraphrase '{inert(phrase, 80)}' must hold the noun and the words")
    if params.whitelist < 2 or params.keep < 0 or params.lam <= 0:
        raise UsageError("whitelist must be at least 2, keep not below zero and lam above zero")


ATTACKS.add("eviledit", _Attack())
