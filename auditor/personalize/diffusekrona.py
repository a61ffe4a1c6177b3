"""DiffuseKronA (Marjit et al., WACV 2025, arXiv 2402.17412): ``delta-W = A (x) B`` on every attention projection.

``A`` is (a1, a2) and ``B`` (out / a1, in / a2), so that a layer has ``a1 a2 + out in / (a1 a2)`` parameters, and
``rank(A (x) B) = rank(A) rank(B)`` may be full: nothing looks low-rank. Saved as LyCORIS LoKr, whose meaning is the
plain product ``kron(lokr_w1, lokr_w2)``. Checkpoints of the authors' released code hold a row-shuffled product
under the same factors; merged as LoKr they would be another model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from auditor.contracts import Progress
from auditor.personalize import CHECKPOINT
from auditor.personalize.blocks.adapter_files import kohya_name, save_tensors
from auditor.personalize.blocks.examples import Examples, load_examples
from auditor.personalize.blocks.layers.adapted import adapted, linear_layers
from auditor.personalize.blocks.layers.kronecker import KroneckerChange, parameter_count
from auditor.personalize.blocks.losses import denoising_loss
from auditor.personalize.blocks.methods import ANY_DENOISER, PictureMethod
from auditor.personalize.blocks.optimise import Group, Optimisation, TrainingLog, optimise
from auditor.personalize.blocks.saving import save_provenance
from auditor.personalize.blocks.training import PLAIN, Training
from auditor.personalize.blocks.validation import plain_look
from auditor.personalize.lora import ATTENTION
from auditor.pipeline.components import Components
from auditor.registry import METHODS

__all__ = ["DiffuseKronA", "TrainedKron", "parameters_on", "save_lokr", "train_diffusekrona"]

CONVENTION = "plain Kronecker product, rows not shuffled: kron(lokr_w1, lokr_w2), scale 1"


@dataclass(frozen=True)
class DiffuseKronA:
    """Recipe.

    Attributes:
        prompt: prompt with the identifier, for example "a picture of sks person".
        a1: rows of the left factor; has to divide the outputs of every attention projection.
        a2: its columns; has to divide their inputs.
        steps: optimiser steps.
        batch: rows a step.
        lr: AdamW learning rate.
        seed: of every draw.
    """

    prompt: str = "a picture of sks"
    a1: int = 64
    a2: int = 8
    steps: int = 500
    batch: int = 4
    lr: float = 1e-3
    seed: int = 0


@dataclass(frozen=True)
class TrainedKron:
    """Path of the layer to its factors (a1, a2) and (out / a1, in / a2), float32 on the CPU; the training's log."""

    factors: Mapping[str, tuple[Tensor, Tensor]]
    log: TrainingLog

    @property
    def parameters(self) -> int:
        """How many numbers were trained."""
        return sum(left.numel() + right.numel() for left, right in self.factors.values())


def parameters_on(model: nn.Module, a1: int, a2: int) -> int:
    """``sum(a1 a2 + out in / (a1 a2))`` over the attention projections of a UNet."""
    layers = linear_layers(model, ATTENTION).values()
    return sum(parameter_count(layer.out_features, layer.in_features, a1, a2) for layer in layers)


def train_diffusekrona(
    base: Components, examples: Examples, params: DiffuseKronA, progress: Progress, checkpoint: Path | None = None,
    training: Training = PLAIN,
) -> TrainedKron:  # fmt: skip
    """Trains the factors; the base is as before afterwards, also after an exception.

    Raises:
        UsageError: a factor does not divide a layer, or a number of the recipe is out of range.
    """
    generator = torch.Generator().manual_seed(params.seed)

    def make(_: str, layer: nn.Linear) -> KroneckerChange:
        return KroneckerChange(layer.out_features, layer.in_features, params.a1, params.a2, generator)

    with adapted(base.denoiser_model, ATTENTION, make) as changes:
        trained = [p for change in changes.values() for p in change.parameters()]
        recipe = Optimisation(params.steps, params.lr, seed=params.seed)
        log = optimise(
            [Group("kron", trained)], denoising_loss(base, examples, params.batch), recipe, progress,
            checkpoint=checkpoint, training=training, look=plain_look(base),
            identity={"base": base.sha256, "params": vars(params), "images": examples.hashes},
        )  # fmt: skip
        kron = {path: cast(KroneckerChange, change) for path, change in changes.items()}
        factors = {p: (c.left.detach().cpu().clone(), c.right.detach().cpu().clone()) for p, c in kron.items()}
        return TrainedKron(factors, log)


def save_lokr(
    folder: Path, factors: Mapping[str, tuple[Tensor, Tensor]], metadata: Mapping[str, str], denoiser: str = "unet"
) -> Path:
    """Writes ``lokr.safetensors`` with kohya names, float16.

    ``alpha`` is there because LyCORIS asks for it; where both factors are whole every reader takes a scale of 1.

    Raises:
        OutputError: the file is there already, or cannot be written.
    """
    out: dict[str, Tensor] = {}
    for path, (left, right) in factors.items():
        name = kohya_name(path, denoiser)
        out |= {f"{name}.lokr_w1": left, f"{name}.lokr_w2": right, f"{name}.alpha": torch.tensor(1.0)}
    return save_tensors(folder, "lokr.safetensors", out, metadata)


class _Method(PictureMethod):
    id = "diffusekrona"
    goal = "teach the model one subject with Kronecker adapters, saved as LyCORIS LoKr"
    refs = ("arXiv:2402.17412", "arXiv:2309.14859")
    params = DiffuseKronA
    denoisers = ANY_DENOISER

    def learn(
        self, base: Components, data: Path, params: DiffuseKronA, out: Path, progress: Progress, training: Training
    ) -> Path:
        """Trains on a folder of pictures; writes ``lokr.safetensors`` and ``provenance.json`` into ``out``."""
        examples = load_examples(data, base, params.prompt, training.skip_unreadable)
        trained = train_diffusekrona(base, examples, params, progress, out / CHECKPOINT, training)
        path = save_lokr(out, trained.factors, {"modelspec.trigger_phrase": params.prompt}, base.kind.denoiser)
        save_provenance(
            out, method=self.id, params=params, training=training, base=base, images=examples.hashes, files=[path],
            loss=trained.log.final,
            extra={"parameters": trained.parameters, "convention": CONVENTION},
        )  # fmt: skip
        return path


METHODS.add("diffusekrona", _Method())
