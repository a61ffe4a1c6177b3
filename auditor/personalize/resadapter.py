"""ResAdapter (Cheng et al., AAAI 2025, arXiv 2403.02084): sizes that the base was not made for, its style kept.

Trained are low-rank changes of the convolutions in down- and up-samplers, and scale and shift of the group norms of
residual blocks; attention is left alone on purpose. Every step has one size x, drawn with ``p(x) ~ |x - s|^2``
around the native size s: extremes more often, the native size never. Saved as two files like the released ones:
kohya-named convolution factors, and plain norm parameters, which replace the old ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from auditor.contracts import Progress
from auditor.errors import UsageError
from auditor.personalize import CHECKPOINT
from auditor.personalize.blocks.adapter_files import kohya_name, save_tensors
from auditor.personalize.blocks.examples import Examples
from auditor.personalize.blocks.layers.adapted import adapted
from auditor.personalize.blocks.layers.convolution import ConvolutionChange
from auditor.personalize.blocks.layers.norms import trained_norms
from auditor.personalize.blocks.losses import denoising_loss
from auditor.personalize.blocks.methods import PictureMethod
from auditor.personalize.blocks.optimise import Group, Optimisation, Step, TrainingLog, optimise
from auditor.personalize.blocks.saving import save_provenance
from auditor.personalize.blocks.training import PLAIN, Training
from auditor.personalize.blocks.validation import plain_look
from auditor.personalize.images import load_images
from auditor.pipeline.components import Components
from auditor.registry import METHODS

__all__ = ["ResAdapter", "TrainedResolution", "save_resolution", "size_weights", "sizes_of", "train_resadapter"]

CONVOLUTIONS = ("downsamplers.0.conv", "upsamplers.0.conv")
NORMS = (".resnets.",)
LORA_FILE, NORM_FILE = "resolution_lora.safetensors", "resolution_norm.safetensors"


@dataclass(frozen=True)
class ResAdapter:
    """Recipe.

    Attributes:
        prompt: what all pictures are called; general data needs no identifier.
        scales: sizes as parts of the native one, as far as the model can be given them; 1 is never drawn.
        rank: r of the convolution factors.
        alpha: scale numerator; 0 means rank.
        steps: optimiser steps.
        batch: rows a step, all of one size.
        lr: AdamW learning rate.
        seed: of every draw.
    """

    prompt: str = "a picture"
    scales: tuple[float, ...] = (0.25, 0.5, 0.75, 1.5, 2.0)
    rank: int = 16
    alpha: float = 0.0
    steps: int = 400
    batch: int = 4
    lr: float = 1e-3
    seed: int = 0


@dataclass(frozen=True)
class TrainedResolution:
    """What was trained, float32 on the CPU.

    Attributes:
        convolutions: path to (down, up), (r, in, kh, kw) and (out, r, 1, 1).
        norms: name of the parameter to its new value (channels,).
        alpha: scale numerator.
        log: of the training.
    """

    convolutions: Mapping[str, tuple[Tensor, Tensor]]
    norms: Mapping[str, Tensor]
    alpha: float
    log: TrainingLog


def sizes_of(base: Components, scales: Sequence[float]) -> list[int]:
    """Pixels of a side for each scale, rounded to what all levels of the model divide; no size twice.

    Raises:
        UsageError: nothing but the native size is left.
    """
    native, step = base.image_size, _pixels_a_step(base)
    sizes = sorted({max(step, round(native * scale / step) * step) for scale in scales})
    if not set(sizes) - {native}:
        raise UsageError(f"sizes other than {native} pixels, the base's own, are needed to learn from")
    return sizes


def size_weights(sizes: Sequence[int], native: int) -> np.ndarray:
    """``p(x) = |x - s|^2 / sum_i |x_i - s|^2``, float64, one a size."""
    distance = (np.asarray(sizes, float) - native) ** 2
    return np.asarray(distance / distance.sum())


def train_resadapter(
    base: Components,
    examples: Mapping[int, Examples],
    params: ResAdapter,
    progress: Progress,
    checkpoint: Path | None = None,
    training: Training = PLAIN,
) -> TrainedResolution:
    """Trains on the same pictures at several sizes; the base is as before afterwards, also after an exception.

    Args:
        base: the model.
        examples: pixels of a side to the examples of that size.
        params: the recipe; ``scales`` is not used here.
        progress: told of every step.
        checkpoint: see :func:`auditor.personalize.blocks.optimise.optimise`.
        training: how it is run.

    Raises:
        UsageError: no size but the native one, or a number of the recipe is out of range.
    """
    sizes = sorted(set(examples) - {base.image_size})
    if not sizes or params.rank <= 0:
        raise UsageError("a rank above zero, and a size other than the base's own, are needed")
    odds, alpha = size_weights(sizes, base.image_size), params.alpha or params.rank
    losses = {size: denoising_loss(base, examples[size], params.batch) for size in sizes}
    generator = torch.Generator().manual_seed(params.seed)

    def make(_: str, layer: nn.Conv2d) -> ConvolutionChange:
        return ConvolutionChange(layer, params.rank, generator, alpha / params.rank)

    def loss_of(step: Step) -> Tensor:
        return losses[int(step.rng.choice(sizes, p=odds))](step)

    with ExitStack() as stack:
        changes = stack.enter_context(adapted(base.unet, CONVOLUTIONS, make, nn.Conv2d))
        norms = stack.enter_context(trained_norms(base.unet, NORMS))
        factors = [p for change in changes.values() for p in change.parameters()]
        recipe = Optimisation(params.steps, params.lr, seed=params.seed)
        groups = [Group("convolutions", factors), Group("norms", list(norms.values()))]
        hashes = [h for size in sizes for h in examples[size].hashes]
        log = optimise(
            groups, loss_of, recipe, progress,
            checkpoint=checkpoint, training=training, look=plain_look(base),
            identity={"base": base.sha256, "params": vars(params), "images": hashes},
        )  # fmt: skip
        kept = {path: cast(ConvolutionChange, change) for path, change in changes.items()}
        convolutions = {p: (c.down.detach().cpu().clone(), c.up.detach().cpu().clone()) for p, c in kept.items()}
        return TrainedResolution(convolutions, {n: p.detach().float().cpu() for n, p in norms.items()}, alpha, log)


def save_resolution(folder: Path, trained: TrainedResolution) -> tuple[Path, Path]:
    """Writes the convolution factors, float16, and the norms, float32.

    The first is for ``load_lora_weights``, the second for ``unet.load_state_dict(..., strict=False)``; the second
    stays when the first is taken out.

    Raises:
        OutputError: a file is there already, or cannot be written.
    """
    out: dict[str, Tensor] = {}
    for path, (down, up) in trained.convolutions.items():
        name = kohya_name(path)
        out |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        out[f"{name}.alpha"] = torch.tensor(trained.alpha)
    return save_tensors(folder, LORA_FILE, out), save_tensors(folder, NORM_FILE, trained.norms, half=False)


def _pixels_a_step(base: Components) -> int:
    levels = len(base.unet.config.block_out_channels)
    pixels: int = 2 ** (len(base.vae.config.block_out_channels) - 1) * 2 ** (levels - 1)
    return pixels


class _Method(PictureMethod):
    id = "resadapter"
    goal = "teach the base sizes that it was not made for, leaving its style alone"
    refs = ("arXiv:2403.02084",)
    params = ResAdapter

    def learn(
        self, base: Components, data: Path, params: ResAdapter, out: Path, progress: Progress, training: Training
    ) -> Path:
        """Trains on a folder of pictures; writes two files and their provenance, and returns the folder."""
        sizes = [size for size in sizes_of(base, params.scales) if size != base.image_size]
        images = {size: load_images(data, size, training.skip_unreadable) for size in sizes}
        examples = {size: Examples.of(base, im, [params.prompt] * len(im)) for size, im in images.items()}
        trained = train_resadapter(base, examples, params, progress, out / CHECKPOINT, training)
        files = save_resolution(out, trained)
        save_provenance(
            out, method=self.id, params=params, training=training, base=base, images=examples[sizes[0]].hashes,
            files=files,
            loss=trained.log.final, extra={"sizes": sizes},
        )  # fmt: skip
        return files[0]


METHODS.add("resadapter", _Method())
