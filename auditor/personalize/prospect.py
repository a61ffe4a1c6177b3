"""ProSpect (Zhang et al., ACM TOG 2023, arXiv 2305.16225): a word with other vectors in each stage of denoising.

The schedule is cut into equal stages, stage 0 being the nearly clean end, and a small network makes every stage's
vectors ``p_i`` out of one ordinary word's: ``L = ||eps - eps_th(z_t, t, "a picture of <word = p_i(t)>")||^2``.
Early stages of generation (high ``i``) then carry layout, late ones material; prompts and vectors can be exchanged
stage by stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from auditor.contracts import Progress
from auditor.errors import UsageError
from auditor.personalize import CHECKPOINT
from auditor.personalize.blocks.denoising import denoising_error, draw, mean_square
from auditor.personalize.blocks.examples import Examples, load_examples
from auditor.personalize.blocks.methods import PictureMethod
from auditor.personalize.blocks.optimise import Group, Optimisation, Step, TrainingLog, optimise
from auditor.personalize.blocks.saving import save_provenance
from auditor.personalize.blocks.stage_network import StageNetwork
from auditor.personalize.blocks.staged import StagedWord, save_staged_word, staged_conditions, staged_sample
from auditor.personalize.blocks.training import PLAIN, Training
from auditor.personalize.blocks.validation import GUIDANCE, STEPS, look_with
from auditor.personalize.blocks.words import Words, stage_of, word_vectors
from auditor.personalize.textual_inversion import TEMPLATES
from auditor.pipeline.components import Components
from auditor.registry import METHODS

__all__ = ["ProSpect", "TrainedStages", "sample_prospect", "train_prospect"]


@dataclass(frozen=True)
class ProSpect:
    """Recipe.

    Attributes:
        word: the new word.
        init: an ordinary word whose vector it starts from in every stage.
        stages: how many parts the schedule is cut into.
        network: make the vectors with a small network; without it each stage's are learned directly.
        vectors: how many vectors the word stands for.
        steps: optimiser steps.
        batch: rows a step, each at its own stage.
        lr: AdamW learning rate; without the network 5e-3 is usual.
        seed: of every draw.
    """

    word: str = "<subject>"
    init: str = "picture"
    stages: int = 10
    network: bool = True
    vectors: int = 1
    steps: int = 600
    batch: int = 4
    lr: float = 1e-4
    seed: int = 0


@dataclass(frozen=True)
class TrainedStages:
    """The learned word and the log of its training."""

    staged: StagedWord
    log: TrainingLog


def train_prospect(
    base: Components, examples: Examples, params: ProSpect, progress: Progress, checkpoint: Path | None = None,
    training: Training = PLAIN,
) -> TrainedStages:  # fmt: skip
    """Learns the word from examples (their prompts are not used: templates are); the base stays as it is.

    Raises:
        UsageError: the word is in the vocabulary, or a parameter is out of range.
    """
    for name in ("stages", "vectors", "batch"):
        if getattr(params, name) <= 0:
            raise UsageError(f"{name} must be above zero, not {getattr(params, name)}")
    start = {e: rows.to(base.device) for e, rows in word_vectors(base, params.init, params.vectors).items()}
    words = Words(base, {params.word: start}, params.stages)
    networks = _networks(start, params)

    def made(generator: torch.Generator | None) -> dict[str, Tensor]:
        if not networks:
            return dict(words.vectors)
        return {e: network(start[e], generator)[None] for e, network in networks.items()}

    def loss_of(step: Step) -> Tensor:
        drawn = draw(base, examples.latents, params.batch, step.generator)
        prompts = [TEMPLATES[i].format(params.word) for i in step.rng.integers(len(TEMPLATES), size=params.batch)]
        stage = stage_of(drawn.t, len(base.schedule), params.stages)
        condition = words.encode(prompts, stage, made(step.generator))
        return mean_square(denoising_error(base, drawn, condition)).mean()

    def drawn_by_stage(prompts: list[str], noise: Tensor) -> Tensor:
        stages, vectors = range(params.stages), made(None)
        conditions = [words.encode(prompts, torch.full((len(noise),), stage), vectors) for stage in stages]
        return staged_sample(base, noise, conditions, STEPS, GUIDANCE)

    trained: list[nn.Parameter] = [p for network in networks.values() for p in network.parameters()]
    log = optimise(
        [Group("words", trained or words.parameters)], loss_of,
        Optimisation(params.steps, params.lr, weight_decay=0.0, seed=params.seed), progress,
        checkpoint=checkpoint, training=training, look=look_with(base, drawn_by_stage),
        identity={"base": base.sha256, "params": vars(params), "images": examples.hashes},
    )  # fmt: skip
    vectors = {encoder: rows.detach()[0].cpu() for encoder, rows in made(None).items()}
    return TrainedStages(StagedWord(params.word, {"": vectors}), log)


def sample_prospect(
    base: Components,
    staged: StagedWord,
    prompts: Sequence[str],
    noise: Tensor,
    steps: int = 50,
    guidance: float = 7.5,
    use: Sequence[int] | None = None,
) -> Tensor:
    """Samples with the stage's own vectors at each step.

    Args:
        base: the model the word was learned for.
        staged: the word.
        prompts: one prompt for all stages, or one a stage (stage 0, the end, first), with or without the word.
        noise: (B, C, h, w), unit variance.
        steps: of DDIM.
        guidance: weight w.
        use: stage ``i`` takes the vectors of stage ``use[i]``.

    Returns:
        Clean latents (B, C, h, w), float32.

    Raises:
        UsageError: the word was learned for another base, or see :func:`staged_conditions`.
    """
    conditions = staged_conditions(staged.words(base), prompts, len(noise), use)
    return staged_sample(base, noise, conditions, steps, guidance)


def _networks(start: dict[str, Tensor], params: ProSpect) -> dict[str, StageNetwork]:
    if not params.network:
        return {}
    generator = torch.Generator().manual_seed(params.seed)
    return {
        encoder: StageNetwork(rows.shape[-1], params.stages, generator).to(rows.device)
        for encoder, rows in start.items()
    }


class _Method(PictureMethod):
    id = "prospect"
    goal = "learn a new word with vectors of its own for each stage of denoising"
    refs = ("arXiv:2305.16225",)
    params = ProSpect

    def learn(
        self, base: Components, data: Path, params: ProSpect, out: Path, progress: Progress, training: Training
    ) -> Path:
        """Trains on a folder of pictures; writes ``learned_stages.safetensors`` and its provenance into ``out``."""
        examples = load_examples(data, base, TEMPLATES[0].format(params.word), training.skip_unreadable)
        trained = train_prospect(base, examples, params, progress, out / CHECKPOINT, training)
        path = save_staged_word(out, trained.staged)
        save_provenance(
            out, method=self.id, params=params, training=training, base=base, images=examples.hashes, files=[path],
            loss=trained.log.final
        )
        return path


METHODS.add("prospect", _Method())
