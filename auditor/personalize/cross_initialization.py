"""Cross Initialization (Pang et al., CVPR 2024, arXiv 2312.15905): a word starts at the text encoder's own output.

Vectors that textual inversion learns drift to where the encoder's *outputs* lie, far longer than any row of its
token table. So they start there: ordinary words are averaged token by token, the text encoder reads the averages,
and what it says at their places is the start ``v0``. ``L = ||eps - eps_th(z_t, t, "a picture of <word>")||^2 + lam
mean_k ||v_k - v0_k||``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from auditor.contracts import Progress
from auditor.errors import UsageError
from auditor.personalize import CHECKPOINT
from auditor.personalize.blocks.examples import Examples, load_examples
from auditor.personalize.blocks.methods import PictureMethod
from auditor.personalize.blocks.saving import save_provenance, save_word_vectors
from auditor.personalize.blocks.training import PLAIN, Training
from auditor.personalize.blocks.words import Words, word_vectors
from auditor.personalize.textual_inversion import TEMPLATES, LearnedWord, TextualInversion, train_words
from auditor.pipeline.components import Components
from auditor.registry import METHODS

__all__ = ["CrossInitialization", "cross_start", "drift", "train_cross_initialization"]


@dataclass(frozen=True)
class CrossInitialization:
    """Recipe.

    Attributes:
        word: the new word.
        init: words or names of the subject's kind, whose tokens are averaged place by place; may be given many times.
        vectors: how many vectors the word stands for.
        through_encoder: start at the encoder's output; without it at the averages, as textual inversion does.
        anchor: weight of the distance to the start.
        steps: optimiser steps.
        batch: rows a step.
        lr: AdamW learning rate.
        seed: of every draw.
    """

    word: str = "<subject>"
    init: tuple[str, ...] = ("man", "woman", "person")
    vectors: int = 2
    through_encoder: bool = True
    anchor: float = 1e-5
    steps: int = 320
    batch: int = 4
    lr: float = 5e-3
    seed: int = 0


def cross_start(base: Components, params: CrossInitialization) -> dict[str, Tensor]:
    """Where the word's vectors start: text encoder to float32 (n, d).

    Raises:
        UsageError: no words to start from, one without a token, or more vectors than a prompt has room for.
    """
    if not params.init or params.vectors <= 0:
        raise UsageError("Cross Initialization starts from ordinary words and has at least one vector; see --init")
    if params.vectors > min(tokenizer.model_max_length for tokenizer in base.tokenizers.values()) - 2:
        raise UsageError(f"a prompt of this base has no room for {params.vectors} vectors; choose fewer")
    each = [word_vectors(base, text, params.vectors) for text in params.init]
    means = {encoder: torch.stack([rows[encoder] for rows in each]).mean(0) for encoder in each[0]}
    if not params.through_encoder:
        return means
    with torch.no_grad():
        states = Words(base, {params.word: means}).final_states([params.word])
    # After the token that begins every text.
    return {encoder: rows[0, 1 : 1 + params.vectors].float().clone() for encoder, rows in states.items()}


def train_cross_initialization(
    base: Components, examples: Examples, params: CrossInitialization, progress: Progress,
    checkpoint: Path | None = None, training: Training = PLAIN,
) -> LearnedWord:  # fmt: skip
    """Learns the word from examples (their prompts are not used: templates are).

    Raises:
        UsageError: see :func:`cross_start`; or a parameter is out of range.
    """
    if params.anchor < 0:
        raise UsageError(f"anchor must not be below zero, not {params.anchor}")
    plain = TextualInversion(
        word=params.word, init=", ".join(params.init), vectors=params.vectors, steps=params.steps,
        batch=params.batch, lr=params.lr, seed=params.seed,
    )  # fmt: skip
    start = cross_start(base, params)
    return train_words(base, examples, plain, start, progress, checkpoint, anchor=params.anchor, training=training)


def drift(learned: LearnedWord) -> Mapping[str, float]:
    """How far a word moved: lengths against the start and cosine with it, means over vectors and encoders."""
    pairs = [(learned.vectors[e], learned.start[e].to(learned.vectors[e])) for e in learned.vectors]
    ratios = torch.cat([now.norm(dim=-1) / then.norm(dim=-1) for now, then in pairs])
    cosines = torch.cat([torch.cosine_similarity(now, then, dim=-1) for now, then in pairs])
    return {"norm_ratio": float(ratios.mean()), "cosine": float(cosines.mean())}


class _Method(PictureMethod):
    id = "cross-initialization"
    goal = "learn a new word in few steps, from where the text encoder's outputs lie"
    refs = ("arXiv:2312.15905",)
    params = CrossInitialization

    def learn(
        self, base: Components, data: Path, params: CrossInitialization, out: Path, progress: Progress,
        training: Training,
    ) -> Path:  # fmt: skip
        """Trains on a folder of pictures; writes ``learned_embeds.safetensors`` and its provenance into ``out``."""
        examples = load_examples(data, base, TEMPLATES[0].format(params.word), training.skip_unreadable)
        learned = train_cross_initialization(base, examples, params, progress, out / CHECKPOINT, training)
        path = save_word_vectors(out, params.word, learned.vectors)
        save_provenance(
            out, method=self.id, params=params, training=training, base=base, images=examples.hashes, files=[path],
            loss=learned.log.final, extra={"drift": drift(learned)},
        )  # fmt: skip
        return path


METHODS.add("cross-initialization", _Method())
