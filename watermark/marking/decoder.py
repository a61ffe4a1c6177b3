"""A decoder taught to mark: it learns to decode latents as the model's own would decode them with the mark injected.

No extractor is in the loop and no gradient goes through one: the injection of Safe-SD has learned where a mark hides,
and the decoder copies what comes of it for one message.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from auditor.contracts import Progress
from watermark.marking.scenes import captioned_scenes
from watermark.networks.reading import injected, mark_latents

if TYPE_CHECKING:
    from auditor.pipeline.components import Components

__all__ = ["Taught", "taught_decoder"]


@dataclass(frozen=True)
class Taught:
    """A marked autoencoder.

    Attributes:
        vae: a copy of the model's own with another decoder.
        missing: part of what the mark changes in a picture, in energy, that the last steps did not make.
    """

    vae: Any
    missing: float


def taught_decoder(
    base: Components,
    modules: NDArray[Any],
    *,
    pictures: int,
    steps: int,
    batch: int,
    learning_rate: float,
    strength: float,
    seed: int,
    progress: Progress,
) -> Taught:
    """Teaches a copy of the model's decoder one mark.

    Args:
        base: the model; stays as it is.
        modules: (21, 21), dark ones True.
        pictures: scenes of the embedded world that it learns on.
        steps: of the optimiser.
        batch: pictures a step.
        learning_rate: the highest, after a short rise and before the fall.
        strength: of the injection that is copied.
        seed: of pictures and batches.
        progress: told of every step.

    Raises:
        UsageError: see :func:`watermark.networks.shipped.safe_sd_for`.
    """
    from auditor.pipeline.conditioning import decode_latents, encode_images

    images, _ = captioned_scenes(pictures, seed)
    with torch.no_grad():
        latents = encode_images(base, images)
        mark = mark_latents(base, modules, *latents.shape[-2:])
        wanted = _decoded(base, injected(base, latents, mark, strength, "decoder"))
        plain = decode_latents(base, latents, batch=16)
    vae: Any = copy.deepcopy(base.vae)
    learning = [*_learning(vae)]
    optimizer = torch.optim.AdamW(learning, lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.15)
    changed = float((wanted - plain).square().mean())
    raw = latents / vae.config.scaling_factor
    generator = torch.Generator().manual_seed(seed)
    recent: list[float] = []
    for i in range(steps):
        rows = torch.randint(pictures, (batch,), generator=generator)
        error = (vae.decode(raw[rows]).sample - wanted[rows].to(raw)).square().mean()
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(error)
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        schedule.step()
        recent = [*recent[-9:], float(error.detach())]
        progress(i + 1, steps)
    return Taught(vae.requires_grad_(False).eval(), sum(recent) / len(recent) / max(changed, 1e-12))


def _learning(vae: Any) -> Iterator[nn.Parameter]:
    """The parameters of the decoder and of what stands before it, made to learn; the encoder's are left alone."""
    for part in (vae.decoder, vae.post_quant_conv):
        if part is not None:
            yield from part.requires_grad_(True).parameters()


def _decoded(base: Components, latents: Tensor) -> Tensor:
    from auditor.pipeline.conditioning import decode_latents

    return decode_latents(base, latents, batch=16)
