"""SeFi-IDE (Li et al., 2024, arXiv 2402.00631): a word with separate vectors for the keys and values of each stage.

Each of five stages of denoising owns a vector ``k_i`` that only cross-attention keys see and a vector ``v_i`` that
only its values see. ``L = ||eps - eps_th(z_t, t, c(k_i), c(v_i))||^2 + lam sum_layers,tokens ||A(y) -
A(y_ref)||^2``: the maps of all tokens are held to those of the same prompt with an ordinary word, so that the new
word does not look at the whole picture. No code was published: maps of all layers are compared, as a mean over
heads, summed over pixels.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from auditor.contracts import Progress
from auditor.errors import UsageError
from auditor.personalize import CHECKPOINT
from auditor.personalize.blocks.attention import recorded, values_from
from auditor.personalize.blocks.denoising import Drawn, denoising_error, draw, mean_square
from auditor.personalize.blocks.examples import Examples, load_examples
from auditor.personalize.blocks.methods import PictureMethod
from auditor.personalize.blocks.optimise import Group, Optimisation, Step, TrainingLog, optimise
from auditor.personalize.blocks.saving import save_provenance
from auditor.personalize.blocks.staged import StagedWord, save_staged_word, staged_conditions, staged_sample
from auditor.personalize.blocks.training import PLAIN, Training
from auditor.personalize.blocks.validation import GUIDANCE, STEPS, look_with
from auditor.personalize.blocks.words import Words, stage_of, word_vectors
from auditor.personalize.textual_inversion import TEMPLATES
from auditor.pipeline.components import Components
from auditor.pipeline.conditioning import Conditioning, encode_prompts
from auditor.pipeline.denoiser import Denoiser
from auditor.registry import METHODS
from auditor.text import inert

__all__ = ["SeFi", "TrainedSeFi", "attention_gap", "sample_sefi", "train_sefi"]


@dataclass(frozen=True)
class SeFi:
    """Recipe.

    Attributes:
        word: the new word.
        init: an ordinary word whose vector it starts from.
        reference: an ordinary word of one token whose attention the new word's is held to.
        stages: how many parts the schedule is cut into.
        tied: one vector a stage for keys and values.
        attention_weight: weight of the attention loss; much more and the subject is not learned.
        steps: optimiser steps.
        batch: rows a step, each at its own stage.
        lr: AdamW learning rate.
        seed: of every draw.
    """

    word: str = "<subject>"
    init: str = "person"
    reference: str = "person"
    stages: int = 5
    tied: bool = False
    attention_weight: float = 0.003
    steps: int = 500
    batch: int = 4
    lr: float = 5e-3
    seed: int = 0


@dataclass(frozen=True)
class TrainedSeFi:
    """The learned word, with the roles ``key`` and ``value`` (equal where they are tied), and the log."""

    staged: StagedWord
    log: TrainingLog


def train_sefi(
    base: Components, examples: Examples, params: SeFi, progress: Progress, checkpoint: Path | None = None,
    training: Training = PLAIN,
) -> TrainedSeFi:  # fmt: skip
    """Learns the word from examples (their prompts are not used: templates are); the base stays as it is.

    Raises:
        UsageError: a word is in the vocabulary, the reference is not one token, a parameter is out of range, or
            gradient checkpointing is asked for.
    """
    _check(base, params)
    if training.gradient_checkpointing:
        raise UsageError("sefi reads the attention of every step, which --gradient-checkpointing does not keep")
    start = word_vectors(base, params.init, 1)
    reference = _reference(base, params)
    keys = Words(base, {params.word: start}, params.stages)
    values = keys if params.tied else Words(base, {params.word: start}, params.stages)

    def loss_of(step: Step) -> Tensor:
        drawn = draw(base, examples.latents, params.batch, step.generator)
        chosen = step.rng.integers(len(TEMPLATES), size=params.batch)
        prompts = [TEMPLATES[i].format(params.word) for i in chosen]
        stage = stage_of(drawn.t, len(base.schedule), params.stages)
        condition = keys.encode(prompts, stage)
        with ExitStack() as stack:
            if values is not keys:
                stack.enter_context(values_from(base, values.encode(prompts, stage).states))
            if not params.attention_weight:
                return mean_square(denoising_error(base, drawn, condition)).mean()
            maps = stack.enter_context(recorded(base))
            loss = mean_square(denoising_error(base, drawn, condition)).mean()
            seen = dict(maps.maps)
        wanted = _maps(base, drawn, reference[torch.from_numpy(chosen)])
        return loss + params.attention_weight * attention_gap(seen, wanted)

    def drawn_by_stage(prompts: list[str], noise: Tensor) -> Tensor:
        stages = [torch.full((len(noise),), stage) for stage in range(params.stages)]
        told = [[words.encode(prompts, stage) for stage in stages] for words in (keys, values)]
        return staged_sample(base, noise, told[0], STEPS, GUIDANCE, told[1])

    groups = [Group("keys", keys.parameters), *([] if params.tied else [Group("values", values.parameters)])]
    log = optimise(
        groups, loss_of, Optimisation(params.steps, params.lr, weight_decay=0.0, seed=params.seed), progress,
        checkpoint=checkpoint, training=training, look=look_with(base, drawn_by_stage),
        identity={"base": base.sha256, "params": vars(params), "images": examples.hashes},
    )  # fmt: skip
    roles = {
        role: {encoder: rows.detach()[0].cpu().clone() for encoder, rows in words.vectors.items()}
        for role, words in (("key", keys), ("value", values))
    }
    return TrainedSeFi(StagedWord(params.word, roles), log)


def attention_gap(seen: dict[str, Tensor], wanted: dict[str, Tensor]) -> Tensor:
    """Squared distance of attention maps, summed over layers, pixels and tokens, mean over rows and heads; a scalar."""
    return torch.stack([(seen[name] - wanted[name]).square().sum((2, 3)).mean() for name in wanted]).sum()


def sample_sefi(
    base: Components, staged: StagedWord, prompt: str, noise: Tensor, steps: int = 50, guidance: float = 7.5
) -> Tensor:
    """Samples with each stage's keys and values; noise (B, C, h, w) to clean latents (B, C, h, w), float32.

    Pooled text of SDXL comes from the keys' vectors.
    """
    keys, values = (
        staged_conditions(staged.words(base, role), [prompt], len(noise)) for role in ("key", "value")
    )
    return staged_sample(base, noise, keys, steps, guidance, values)


@torch.no_grad()
def _maps(base: Components, drawn: Drawn, condition: Conditioning) -> dict[str, Tensor]:
    with recorded(base, only=True) as maps:
        Denoiser(base).native(drawn.noisy, drawn.t, condition)
    return dict(maps.maps)


def _reference(base: Components, params: SeFi) -> Conditioning:
    """The templates with the ordinary word, one row each."""
    with torch.no_grad():
        return encode_prompts(base, base.tokenizers, [text.format(params.reference) for text in TEMPLATES])


def _check(base: Components, params: SeFi) -> None:
    for name in ("stages", "batch"):
        if getattr(params, name) <= 0:
            raise UsageError(f"{name} must be above zero, not {getattr(params, name)}")
    if params.attention_weight < 0:
        raise UsageError(f"attention weight must not be below zero, not {params.attention_weight}")
    for tokenizer in base.tokenizers.values():
        count = len(tokenizer(params.reference, add_special_tokens=False).input_ids)
        if count != 1:
            shown = inert(params.reference, 60)
            raise UsageError(f"the reference '{shown}' has {count} tokens; name a word of one, like 'person'")


class _Method(PictureMethod):
    id = "sefi"
    goal = "learn a new word with separate keys and values by stage, held to an ordinary word's attention"
    refs = ("arXiv:2402.00631",)
    params = SeFi

    def learn(
        self, base: Components, data: Path, params: SeFi, out: Path, progress: Progress, training: Training
    ) -> Path:
        """Trains on a folder of pictures; writes ``learned_stages.safetensors`` and its provenance into ``out``."""
        examples = load_examples(data, base, TEMPLATES[0].format(params.word), training.skip_unreadable)
        trained = train_sefi(base, examples, params, progress, out / CHECKPOINT, training)
        path = save_staged_word(out, trained.staged)
        save_provenance(
            out, method=self.id, params=params, training=training, base=base, images=examples.hashes, files=[path],
            loss=trained.log.final
        )
        return path


METHODS.add("sefi", _Method())
