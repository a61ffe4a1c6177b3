"""Textual inversion (Gal et al., ICLR 2023, arXiv 2208.01618): the model stays as it is, a new word is learned for it.

``L = ||eps - eps_th(z_t, t, "a picture of <word>")||^2``, minimised over the word's input vectors alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from auditor.contracts import Progress
from auditor.personalize import CHECKPOINT
from auditor.personalize.blocks.denoising import denoising_error, draw, mean_square
from auditor.personalize.blocks.examples import Examples, load_examples
from auditor.personalize.blocks.methods import PictureMethod
from auditor.personalize.blocks.optimise import Group, Optimisation, Step, TrainingLog, optimise
from auditor.personalize.blocks.saving import save_provenance, save_word_vectors
from auditor.personalize.blocks.training import PLAIN, Training
from auditor.personalize.blocks.validation import plain_look
from auditor.personalize.blocks.words import Words, word_vectors
from auditor.pipeline.components import Components
from auditor.registry import METHODS

__all__ = ["LearnedWord", "TextualInversion", "train_textual_inversion", "train_words"]

TEMPLATES = ("a picture of {}", "a close picture of {}", "one picture of the {}", "a picture of a nice {}")


@dataclass(frozen=True)
class TextualInversion:
    """Recipe.

    Attributes:
        word: the new word.
        init: an ordinary word whose vector it starts from.
        vectors: how many vectors the word stands for.
        steps: optimiser steps.
        batch: rows a step.
        lr: AdamW learning rate.
        seed: of every draw.
    """

    word: str = "<subject>"
    init: str = "picture"
    vectors: int = 1
    steps: int = 500
    batch: int = 4
    lr: float = 5e-3
    seed: int = 0


@dataclass(frozen=True)
class LearnedWord:
    """The vectors of a word, text encoder to (n, d), where they started, and the log of the training."""

    vectors: Mapping[str, Tensor]
    start: Mapping[str, Tensor]
    log: TrainingLog


def train_textual_inversion(
    base: Components, examples: Examples, params: TextualInversion, progress: Progress,
    checkpoint: Path | None = None, training: Training = PLAIN,
) -> LearnedWord:  # fmt: skip
    """Learns the word from examples (their prompts are not used: templates are).

    Raises:
        UsageError: the word is in the vocabulary, or a parameter is out of range.
    """
    start = word_vectors(base, params.init, params.vectors)
    return train_words(base, examples, params, start, progress, checkpoint, training=training)


def train_words(
    base: Components,
    examples: Examples,
    params: TextualInversion,
    start: Mapping[str, Tensor],
    progress: Progress,
    checkpoint: Path | None = None,
    training: Training = PLAIN,
    templates: Sequence[str] = TEMPLATES,
    anchor: float = 0.0,
) -> LearnedWord:
    """Learns the word from given initial vectors.

    Args:
        base: the model, untouched.
        examples: the pictures.
        params: the recipe; ``init`` is not used here.
        start: text encoder to initial vectors (n, d).
        progress: told of every step.
        checkpoint: see :func:`auditor.personalize.blocks.optimise.optimise`.
        training: how it is run.
        templates: prompts with ``{}`` for the word.
        anchor: weight of the mean distance (L2, not squared) to the initial vectors.
    """
    words = Words(base, {params.word: start})
    held = {encoder: rows.to(base.device) for encoder, rows in start.items()}

    def loss_of(step: Step) -> Tensor:
        drawn = draw(base, examples.latents, params.batch, step.generator)
        prompts = [templates[i].format(params.word) for i in step.rng.integers(len(templates), size=params.batch)]
        loss = mean_square(denoising_error(base, drawn, words.encode(prompts))).mean()
        for encoder, vectors in words.vectors.items() if anchor else ():
            loss = loss + anchor * (vectors[0, 0] - held[encoder]).norm(dim=-1).mean()
        return loss

    # No decay: a word's vector has no reason to be short.
    recipe = Optimisation(params.steps, params.lr, weight_decay=0.0, seed=params.seed)
    log = optimise(
        [Group("words", words.parameters)], loss_of, recipe, progress,
        checkpoint=checkpoint, training=training, look=plain_look(base, words.encode),
        identity={
            "base": base.sha256, "params": vars(params), "images": examples.hashes, "templates": list(templates),
            "anchor": anchor, "start": {e: Examples.hashes_of(rows[None].cpu()) for e, rows in start.items()},
        },
    )  # fmt: skip
    return LearnedWord({e: v.detach()[0, 0].cpu() for e, v in words.vectors.items()}, dict(start), log)


class _Method(PictureMethod):
    id = "textual-inversion"
    goal = "learn a new word for a subject or style; the model itself stays as it is"
    refs = ("arXiv:2208.01618",)
    params = TextualInversion

    def learn(
        self, base: Components, data: Path, params: TextualInversion, out: Path, progress: Progress, training: Training
    ) -> Path:
        """Trains on a folder of pictures; writes ``learned_embeds.safetensors`` and its provenance into ``out``."""
        examples = load_examples(data, base, TEMPLATES[0].format(params.word), training.skip_unreadable)
        learned = train_textual_inversion(base, examples, params, progress, out / CHECKPOINT, training)
        path = save_word_vectors(out, params.word, learned.vectors)
        save_provenance(
            out, method=self.id, params=params, training=training, base=base, images=examples.hashes, files=[path],
            loss=learned.log.final
        )
        return path


METHODS.add("textual-inversion", _Method())
