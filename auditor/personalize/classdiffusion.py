"""ClassDiffusion (Huang et al., ICLR 2025, arXiv 2405.17532): Custom Diffusion that keeps a subject in its class.

Trained are keys and values of cross-attention and one modifier word (Custom Diffusion, arXiv 2212.04488), with ``L
= L_ddpm + lambda (1 - cos(E("a photo of a <new1> class"), E("a photo of a class")))``, E the text encoder's final
state at the end of the text. The second term reaches the word alone: it holds meaning in text space, and says
nothing of how far keys and values drift. Keys and values are saved whole, under their plain names, the word as
``learned_embeds``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auditor.contracts import Progress
from auditor.personalize import CHECKPOINT
from auditor.personalize.blocks.adapter_files import save_tensors
from auditor.personalize.blocks.denoising import denoising_error, draw, mean_square
from auditor.personalize.blocks.examples import Examples, load_examples
from auditor.personalize.blocks.layers.adapted import adapted
from auditor.personalize.blocks.layers.full import FullChange
from auditor.personalize.blocks.methods import PictureMethod
from auditor.personalize.blocks.optimise import Group, Optimisation, Step, TrainingLog, optimise
from auditor.personalize.blocks.saving import save_provenance, save_word_vectors
from auditor.personalize.blocks.training import PLAIN, Training
from auditor.personalize.blocks.validation import plain_look
from auditor.personalize.blocks.words import Words, word_vectors
from auditor.pipeline.components import Components
from auditor.pipeline.conditioning import encode_prompts
from auditor.registry import METHODS

__all__ = ["ClassDiffusion", "TrainedClass", "class_cosine", "train_classdiffusion"]

KEYS_AND_VALUES = ("attn2.to_k", "attn2.to_v")
WEIGHTS_FILE = "cross_attention_kv.safetensors"


@dataclass(frozen=True)
class ClassDiffusion:
    """Recipe.

    Attributes:
        word: the modifier word.
        class_word: what the subject is, for example "person"; prompts say "a photo of a <word> class_word".
        init: a rare word whose vector the modifier starts from.
        preservation: lambda; 0 is plain Custom Diffusion without prior pictures.
        steps: optimiser steps.
        batch: rows a step.
        lr: AdamW learning rate of keys and values.
        word_lr: of the modifier word.
        seed: of every draw.
    """

    word: str = "<new1>"
    class_word: str = "person"
    init: str = "ktn"
    preservation: float = 1.0
    steps: int = 300
    batch: int = 4
    lr: float = 3e-4
    word_lr: float = 5e-3
    seed: int = 0

    @property
    def prompt(self) -> str:
        """What the pictures are called."""
        return f"a photo of a {self.word} {self.class_word}"


@dataclass(frozen=True)
class TrainedClass:
    """What was trained.

    Attributes:
        weights: name of a weight (``...attn2.to_k.weight``) to its new value (out, in), float32 on the CPU.
        vectors: text encoder to the modifier's vector (1, d).
        cosine: of the subject's text with its class, at the end.
        log: of the training.
    """

    weights: Mapping[str, Tensor]
    vectors: Mapping[str, Tensor]
    cosine: float
    log: TrainingLog


def class_cosine(base: Components, words: Words, params: ClassDiffusion) -> Tensor:
    """``cos(E("a photo of a <new1> class"), E("a photo of a class"))``, a scalar with gradients to the word.

    E is the state at the end of the text that conditions the denoiser: the final one for SD1 and SD2 as in the paper,
    the last but one of both encoders for SDXL.
    """
    ours = words.encode([params.prompt]).states[0, _subject_end(base, params)]
    return F.cosine_similarity(ours, _class_state(base, params), dim=0)


def train_classdiffusion(
    base: Components, examples: Examples, params: ClassDiffusion, progress: Progress, checkpoint: Path | None = None,
    training: Training = PLAIN,
) -> TrainedClass:  # fmt: skip
    """Trains keys, values and the word; the base is as before afterwards, also after an exception.

    Args:
        base: the model.
        examples: the pictures; their prompts are not used.
        params: the recipe.
        progress: told of every step.
        checkpoint: see :func:`auditor.personalize.blocks.optimise.optimise`.
        training: how it is run.

    Raises:
        UsageError: the word is in the vocabulary, or a number of the recipe is out of range.
    """
    words = Words(base, {params.word: word_vectors(base, params.init, 1)})
    anchor, end = _class_state(base, params), _subject_end(base, params)

    def loss_of(step: Step) -> Tensor:
        drawn = draw(base, examples.latents, params.batch, step.generator)
        condition = words.encode([params.prompt] * params.batch)
        loss = mean_square(denoising_error(base, drawn, condition)).mean()
        if params.preservation:
            # Every row has the subject's prompt.
            cosine = F.cosine_similarity(condition.states[0, end], anchor, dim=0)
            loss = loss + params.preservation * (1 - cosine)
        return loss

    def make(_: str, layer: nn.Linear) -> FullChange:
        return FullChange(layer)

    with adapted(base.unet, KEYS_AND_VALUES, make) as changes:
        groups = [
            Group("kv", [p for change in changes.values() for p in change.parameters()]),
            Group("word", words.parameters, params.word_lr),
        ]
        # No decay: a word's vector has no reason to be short.
        recipe = Optimisation(params.steps, params.lr, weight_decay=0.0, seed=params.seed)
        log = optimise(
            groups, loss_of, recipe, progress,
            checkpoint=checkpoint, training=training, look=plain_look(base, words.encode),
            identity={"base": base.sha256, "params": vars(params), "images": examples.hashes},
        )  # fmt: skip
        deltas = {path: change.delta().detach() for path, change in changes.items()}
    weights = {
        f"{path}.weight": (base.unet.get_submodule(path).weight.detach().float() + delta).cpu()
        for path, delta in deltas.items()
    }
    with torch.no_grad():
        final = float(class_cosine(base, words, params))
    return TrainedClass(weights, {e: v.detach()[0, 0].cpu() for e, v in words.vectors.items()}, final, log)


def _class_state(base: Components, params: ClassDiffusion) -> Tensor:
    """The class's own state at the end of its text (D,): text encoders stay as they are, and so does it."""
    plain = params.prompt.replace(f"{params.word} ", "")
    with torch.no_grad():
        return encode_prompts(base, base.tokenizers, [plain]).states[0, _end(base, plain)]


def _subject_end(base: Components, params: ClassDiffusion) -> int:
    # The modifier is one token, as "a" is.
    return _end(base, params.prompt.replace(params.word, "a"))


def _end(base: Components, text: str) -> int:
    """Where the end of a text stands among its tokens."""
    return len(next(iter(base.tokenizers.values()))(text).input_ids) - 1


class _Method(PictureMethod):
    id = "classdiffusion"
    goal = "learn a subject by cross-attention keys and values, and hold its word close to its class"
    refs = ("arXiv:2405.17532", "arXiv:2212.04488")
    params = ClassDiffusion

    def learn(
        self, base: Components, data: Path, params: ClassDiffusion, out: Path, progress: Progress, training: Training
    ) -> Path:
        """Trains on a folder of pictures; writes keys and values, ``learned_embeds.safetensors`` and provenance.

        Keys and values are float32, for ``unet.load_state_dict(..., strict=False)`` and for ``auditor audit``, which
        takes both files as two parts.
        """
        examples = load_examples(data, base, params.prompt, training.skip_unreadable)
        trained = train_classdiffusion(base, examples, params, progress, out / CHECKPOINT, training)
        weights = save_tensors(
            out, WEIGHTS_FILE, trained.weights, {"modelspec.trigger_phrase": params.prompt}, half=False
        )
        vectors = save_word_vectors(out, params.word, trained.vectors)
        save_provenance(
            out, method=self.id, params=params, training=training, base=base, images=examples.hashes, files=[weights,
            vectors],
            loss=trained.log.final, extra={"class_cosine": trained.cosine},
        )  # fmt: skip
        return weights


METHODS.add("classdiffusion", _Method())
