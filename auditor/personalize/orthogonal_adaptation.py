"""Orthogonal Adaptation (Po et al., CVPR 2024, arXiv 2312.02432): adapters that add up without knowing each other.

``delta_i = A_i B_i^T`` with B_i frozen: columns of a public orthogonal matrix, other ones for every concept, so
that ``<delta_i, delta_j> = tr(B_i^T B_j A_j^T A_i) = 0``. Only A_i is trained. Merged by ``W + lambda sum_i
delta_i``, with lambda = 0.6 in the paper. Updates without an inner product still meet the same inputs: what one adds
on another's pictures is no smaller for it (:func:`auditor.personalize.blocks.merging.crosstalk` measures it). The
layer-wise text embeddings (P+) are left out: a file of diffusers' LoRA has no place for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from auditor.contracts import Progress
from auditor.errors import UsageError
from auditor.personalize import CHECKPOINT
from auditor.personalize.blocks.adapter_files import save_tensors
from auditor.personalize.blocks.examples import Examples, load_examples
from auditor.personalize.blocks.layers.adapted import adapted
from auditor.personalize.blocks.layers.low_rank import LowRankChange
from auditor.personalize.blocks.layers.orthogonal import columns_of_draw, columns_of_slot, shared_columns
from auditor.personalize.blocks.losses import denoising_loss
from auditor.personalize.blocks.merging import Factors
from auditor.personalize.blocks.methods import ANY_DENOISER, PictureMethod
from auditor.personalize.blocks.optimise import Group, Optimisation, TrainingLog, optimise
from auditor.personalize.blocks.saving import save_provenance
from auditor.personalize.blocks.training import PLAIN, Training
from auditor.personalize.blocks.validation import plain_look
from auditor.personalize.lora import ATTENTION
from auditor.pipeline.components import Components
from auditor.registry import METHODS

__all__ = ["OrthogonalAdaptation", "TrainedOrthogonal", "save_factors", "train_orthogonal"]

# Linear layers of transformer blocks. Those outside see timesteps and pooled text, which all concepts share.
LAYERS = (*ATTENTION, "ff.net.0.proj", "ff.net.2")


@dataclass(frozen=True)
class OrthogonalAdaptation:
    """Recipe.

    Attributes:
        prompt: prompt with the identifier, for example "a picture of sks person".
        rank: r; the narrowest layer has room for its width / r concepts.
        slot: number that a registry gave this concept, from 0; -1 draws the columns by ``seed`` without a registry.
        basis_seed: of the public matrices; concepts that will be merged share it.
        steps: optimiser steps.
        batch: rows a step.
        lr: AdamW learning rate.
        seed: of every draw.
    """

    prompt: str = "a picture of sks"
    rank: int = 8
    slot: int = 0
    basis_seed: int = 2312
    steps: int = 200
    batch: int = 4
    lr: float = 1e-3
    seed: int = 0


@dataclass(frozen=True)
class TrainedOrthogonal:
    """Path of the layer to (down, up), (r, in) orthonormal and (out, r), float32 on the CPU; the training's log."""

    factors: Factors
    log: TrainingLog


def train_orthogonal(
    base: Components,
    examples: Examples,
    params: OrthogonalAdaptation,
    progress: Progress,
    checkpoint: Path | None = None,
    training: Training = PLAIN,
) -> TrainedOrthogonal:
    """Trains the output factors; the base is as before afterwards, also after an exception.

    Raises:
        UsageError: the slot or the rank does not fit the narrowest layer, or a number is out of range.
    """
    if params.rank <= 0 or params.slot < -1:
        raise UsageError("rank must be above zero, and slot -1 or more")

    def make(path: str, layer: nn.Linear) -> LowRankChange:
        columns: range | list[int] = (
            columns_of_slot(params.slot, params.rank, layer.in_features)
            if params.slot >= 0
            else columns_of_draw(params.seed, path, params.rank, layer.in_features)
        )
        down = shared_columns(params.basis_seed, path, layer.in_features, columns)
        return LowRankChange(down, layer.out_features, frozen_down=True)

    with adapted(base.denoiser_model, LAYERS, make) as changes:
        trained = [p for change in changes.values() for p in change.parameters()]
        recipe = Optimisation(params.steps, params.lr, seed=params.seed)
        log = optimise(
            [Group("up", trained)], denoising_loss(base, examples, params.batch), recipe, progress,
            checkpoint=checkpoint, training=training, look=plain_look(base),
            identity={"base": base.sha256, "params": vars(params), "images": examples.hashes},
        )  # fmt: skip
        factors = {
            path: (_cpu(change.get_buffer("down")), _cpu(change.get_parameter("up")))
            for path, change in changes.items()
        }
        return TrainedOrthogonal(factors, log)


def save_factors(folder: Path, factors: Factors, metadata: Mapping[str, str], denoiser: str = "unet") -> Path:
    """Writes ``pytorch_lora_weights.safetensors`` as diffusers reads it, float32: float16 breaks orthogonality at 1e-5.

    Raises:
        OutputError: the file is there already, or cannot be written.
    """
    out: dict[str, Tensor] = {}
    for path, (down, up) in factors.items():
        out |= {f"{denoiser}.{path}.lora_A.weight": down, f"{denoiser}.{path}.lora_B.weight": up}
    return save_tensors(folder, "pytorch_lora_weights.safetensors", out, metadata, half=False)


def _cpu(values: Tensor) -> Tensor:
    return values.detach().cpu().clone()


class _Method(PictureMethod):
    id = "orthogonal-adaptation"
    goal = "teach one subject so that its adapter can be added to others made the same way"
    refs = ("arXiv:2312.02432",)
    params = OrthogonalAdaptation
    denoisers = ANY_DENOISER

    def learn(
        self, base: Components, data: Path, params: OrthogonalAdaptation, out: Path, progress: Progress,
        training: Training,
    ) -> Path:  # fmt: skip
        """Trains on a folder of pictures; writes ``pytorch_lora_weights.safetensors`` and its provenance."""
        examples = load_examples(data, base, params.prompt, training.skip_unreadable)
        trained = train_orthogonal(base, examples, params, progress, out / CHECKPOINT, training)
        path = save_factors(out, trained.factors, {"modelspec.trigger_phrase": params.prompt}, base.kind.denoiser)
        save_provenance(
            out, method=self.id, params=params, training=training, base=base, images=examples.hashes, files=[path],
            loss=trained.log.final,
            extra={"registry": {"slot": params.slot, "basis_seed": params.basis_seed}},
        )  # fmt: skip
        return path


METHODS.add("orthogonal-adaptation", _Method())
