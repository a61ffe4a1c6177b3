"""SigStyle (Wang et al., AAAI 2025, arXiv 2502.13997): one picture's style as offsets of the decoder's attention.

``W' = W * (1 + D)`` with D of rank three at most, on queries, keys and values of the attention in up-blocks only,
and one style word ``*a``: ``L_ddpm(x, "a {domain} in the style of *a") + 0.01 ||e_a||^2``. Transfer keeps the
layout of a content picture: it is inverted, the base's self-attention queries of the first k steps are kept, and
the tuned model samples from the inverted noise with these in place of its own. Simplified here: the word's vector
is learned directly, where the paper lets a two-layer network make it from the domain word and image features of an
encoder trained elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from auditor.contracts import Progress
from auditor.errors import UsageError
from auditor.personalize import CHECKPOINT
from auditor.personalize.blocks.adapter_files import kohya_name, save_tensors
from auditor.personalize.blocks.attention_swap import queries_given, queries_kept
from auditor.personalize.blocks.denoising import denoising_error, draw, mean_square
from auditor.personalize.blocks.examples import Examples, load_examples
from auditor.personalize.blocks.layers.adapted import Change, adapted, linear_layers
from auditor.personalize.blocks.layers.multiplicative import MultiplicativeChange
from auditor.personalize.blocks.methods import PictureMethod
from auditor.personalize.blocks.optimise import Group, Optimisation, Step, TrainingLog, optimise
from auditor.personalize.blocks.saving import save_provenance, save_word_vectors
from auditor.personalize.blocks.training import PLAIN, Training
from auditor.personalize.blocks.validation import plain_look
from auditor.personalize.blocks.words import Words, word_vectors
from auditor.pipeline.components import Components
from auditor.pipeline.sampling import ddim_sample
from auditor.pipeline.subject import Subject
from auditor.registry import METHODS

__all__ = ["SigStyle", "TrainedStyle", "targets_in", "train_sigstyle", "transfer"]

WEIGHTS_FILE = "style_offsets.safetensors"
_PROJECTIONS = ("to_q", "to_k", "to_v")
_WORD_PENALTY = 0.01


@dataclass(frozen=True)
class SigStyle:
    """Recipe.

    Attributes:
        word: the style word.
        domain: what the picture is; prompts say "a domain in the style of word".
        init: an ordinary word whose vector the style word starts from.
        steps: optimiser steps.
        batch: rows a step, all of the one picture.
        lr: AdamW learning rate of the offsets.
        word_lr: of the word.
        seed: of every draw.
    """

    word: str = "<look>"
    domain: str = "picture"
    init: str = "style"
    steps: int = 300
    batch: int = 4
    lr: float = 2e-3
    word_lr: float = 5e-3
    seed: int = 0

    @property
    def prompt(self) -> str:
        """What the picture is called."""
        return f"a {self.domain} in the style of {self.word}"


@dataclass(frozen=True)
class TrainedStyle:
    """Path of the layer to ``W' - W`` (out, in), text encoder to the word's vector (1, d), and the training's log."""

    differences: Mapping[str, Tensor]
    vectors: Mapping[str, Tensor]
    log: TrainingLog


def targets_in(unet: nn.Module) -> tuple[str, ...]:
    """Paths of query, key and value projections in up-blocks.

    Raises:
        UsageError: the model has none.
    """
    found = tuple(path for path in linear_layers(unet, _PROJECTIONS) if path.startswith("up_blocks."))
    if not found:
        raise UsageError("this model has no attention in up-blocks; the method does not fit its family")
    return found


def train_sigstyle(
    base: Components, examples: Examples, params: SigStyle, progress: Progress, checkpoint: Path | None = None,
    training: Training = PLAIN,
) -> TrainedStyle:  # fmt: skip
    """Trains offsets and word; the base is as before afterwards, also after an exception.

    Args:
        base: the model.
        examples: one style picture; more are drawn from alike.
        params: the recipe.
        progress: told of every step.
        checkpoint: see :func:`auditor.personalize.blocks.optimise.optimise`.
        training: how it is run.

    Raises:
        UsageError: the word is in the vocabulary, or a number of the recipe is out of range.
    """
    words = Words(base, {params.word: word_vectors(base, params.init, 1)})
    generator = torch.Generator().manual_seed(params.seed)

    def loss_of(step: Step) -> Tensor:
        drawn = draw(base, examples.latents, params.batch, step.generator)
        error = denoising_error(base, drawn, words.encode([params.prompt] * params.batch))
        return mean_square(error).mean() + _WORD_PENALTY * sum(v.square().sum() for v in words.parameters)

    def make(_: str, layer: nn.Linear) -> MultiplicativeChange:
        return MultiplicativeChange(layer, generator)

    with adapted(base.unet, targets_in(base.unet), make) as changes:
        groups = [Group("offsets", _parameters(changes)), Group("word", words.parameters, params.word_lr)]
        recipe = Optimisation(params.steps, params.lr, weight_decay=0.0, seed=params.seed)
        log = optimise(
            groups, loss_of, recipe, progress,
            checkpoint=checkpoint, training=training, look=plain_look(base, words.encode),
            identity={"base": base.sha256, "params": vars(params), "images": examples.hashes},
        )  # fmt: skip
        differences = {path: change.delta().detach().cpu() for path, change in changes.items()}
    return TrainedStyle(differences, {e: v.detach()[0, 0].cpu() for e, v in words.vectors.items()}, log)


def transfer(
    subject: Subject,
    content: Tensor,
    content_prompt: str,
    prompt: str,
    keep: int,
    steps: int = 25,
    guidance: float = 3.0,
) -> Tensor:
    """Draws pictures in the style of the subject's adapter with the layout of given ones.

    Args:
        subject: the base with offsets and word on it.
        content: (B, 3, H, W) in [-1, 1]; twice B rows have to fit into one evaluation.
        content_prompt: what they show.
        prompt: what to draw, with the style word.
        keep: k, how many of the first steps take the base's queries; 0 keeps the noise alone.
        steps: sampler steps.
        guidance: weight of the style model's guidance.

    Returns:
        (B, 3, H, W) in [-1, 1], float32 on the CPU.

    Raises:
        UsageError: ``keep`` is not within 0 to ``steps``.
    """
    if not 0 <= keep <= steps:
        raise UsageError(f"of {steps} steps 0 to {steps} can be kept, not {keep}")
    base, tuned, count = subject.base, subject.tuned, len(content)
    noise = base.invert(content, [content_prompt] * count, steps=steps)
    told, null = base.encode_prompt([content_prompt] * count), base.encode_null(count)
    with queries_kept(subject.components, keep) as queries:
        ddim_sample(base.denoiser, noise, told, null, steps, 1.0)
    styled = tuned.encode_prompt([prompt] * count)
    with queries_given(subject.components, queries, keep):
        return tuned.decode(ddim_sample(tuned.denoiser, noise, styled, tuned.encode_null(count), steps, guidance))


def _parameters(changes: Mapping[str, Change]) -> list[nn.Parameter]:
    return [p for change in changes.values() for p in change.parameters()]


class _Method(PictureMethod):
    id = "sigstyle"
    goal = "learn the style of one picture as offsets of the decoder's attention and a word"
    refs = ("arXiv:2502.13997",)
    params = SigStyle

    def learn(
        self, base: Components, data: Path, params: SigStyle, out: Path, progress: Progress, training: Training
    ) -> Path:
        """Trains on a folder with one picture; writes kohya-named full differences, the word and provenance.

        Differences are float32: whether the ratio to the base's weight has rank three is in digits that float16 loses.
        """
        examples = load_examples(data, base, params.prompt, training.skip_unreadable)
        trained = train_sigstyle(base, examples, params, progress, out / CHECKPOINT, training)
        named = {f"{kohya_name(path)}.diff": value for path, value in trained.differences.items()}
        weights = save_tensors(out, WEIGHTS_FILE, named, {"modelspec.trigger_phrase": params.prompt}, half=False)
        vectors = save_word_vectors(out, params.word, trained.vectors)
        save_provenance(
            out, method=self.id, params=params, training=training, base=base, images=examples.hashes, files=[weights,
            vectors],
            loss=trained.log.final,
        )  # fmt: skip
        return weights


METHODS.add("sigstyle", _Method())
