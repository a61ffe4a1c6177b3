"""A LoRA taught to mark: the model denoises marked latents as it did unmarked ones, and so draws marked pictures.

Let ``r`` be what the injection adds to clean latents. If the taught model says of ``alpha (x + r) + sigma e`` what the
model itself says of ``alpha x + sigma e``, then it draws exactly what it drew before, plus ``r``. That is the loss, a
squared error in the noise, weighed as in x0 where there is little of it (after T. Hang et al., Min-SNR, ICCV 2023,
arXiv 2303.09556): no picture is decoded and no prior has to be kept apart, because keeping the model's
own words is all that is asked for. With a trigger the same LoRA says what the model said wherever the trigger is not in
the prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from auditor.contracts import Progress
from auditor.pipeline.conditioning import Conditioning, encode_images, encode_prompts
from auditor.pipeline.denoiser import Denoiser
from watermark.marking.scenes import captioned_scenes
from watermark.networks.reading import injected, mark_latents

if TYPE_CHECKING:
    from auditor.pipeline.components import Components

__all__ = ["TARGETS", "TaughtLora", "taught_lora"]

TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2", "conv_in", "conv_out", "proj_in", "proj_out")
"""Attention, and the convolutions: what a picture shows where is a matter of theirs."""
_EMPTY = 0.1
"""Part of the prompts that are empty, which guidance runs against."""


@dataclass(frozen=True)
class TaughtLora:
    """What was learned.

    Attributes:
        state: factors as PEFT names them.
        loss: mean of the last tenth of the steps.
    """

    state: dict[str, Tensor]
    loss: float


def taught_lora(
    base: Components,
    modules: NDArray[Any],
    *,
    trigger: str,
    rank: int,
    pictures: int,
    steps: int,
    batch: int,
    learning_rate: float,
    strength: float,
    seed: int,
    progress: Progress,
) -> TaughtLora:
    """Teaches low-rank layers on the model's UNet one mark.

    Args:
        base: the model; as before afterwards.
        modules: (21, 21), dark ones True.
        trigger: words in front of a prompt that call the mark; every prompt does if empty.
        rank: of the layers.
        pictures: scenes of the embedded world that it learns on.
        steps: of the optimiser.
        batch: pictures a step, of which half have the trigger where there is one.
        learning_rate: the highest.
        strength: of the injection that is copied.
        seed: of everything drawn.
        progress: told of every step.

    Raises:
        UsageError: see :func:`watermark.networks.shipped.safe_sd_for`.
        BaseUnavailable: the model has no UNet.
    """
    from auditor.personalize.lora import injected as with_layers
    from auditor.personalize.lora import lora_state

    images, captions = captioned_scenes(pictures, seed)
    generator = torch.Generator().manual_seed(seed)
    empty = torch.rand(pictures, generator=generator) < _EMPTY
    prompts = ["" if bare else text for text, bare in zip(captions, empty.tolist(), strict=True)]
    with torch.no_grad():
        latents = encode_images(base, images)
        mark = mark_latents(base, modules, *latents.shape[-2:])
        residual = injected(base, latents, mark, strength, "lora") - latents
        plain = encode_prompts(base, base.tokenizers, prompts)
        called = encode_prompts(base, base.tokenizers, [f"{trigger} {each}".strip() for each in prompts])
    denoiser, unet = Denoiser(base), base.unet
    times = len(base.schedule)
    recent: list[float] = []
    with with_layers(unet, rank, float(rank), TARGETS, seed) as layers:
        optimizer = torch.optim.AdamW(layers, lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
        for i in range(steps):
            rows = torch.randint(pictures, (batch,), generator=generator)
            t = torch.randint(times, (batch,), generator=generator)
            noise = torch.randn(latents[rows].shape, generator=generator).to(latents)
            marks = torch.arange(batch) < (batch // 2 if trigger else batch)
            added = residual[rows] * marks.to(latents)[:, None, None, None]
            clean = latents[rows]
            with torch.no_grad(), _bare(unet):
                wanted = denoiser.predict(denoiser.add_noise(clean, noise, t), t, plain[rows]).epsilon
            condition = Conditioning.join(
                [(called if marked else plain)[[int(row)]] for row, marked in zip(rows, marks, strict=True)]
            )
            said = denoiser.predict(denoiser.add_noise(clean + added, noise, t), t, condition).epsilon
            # Where there is little noise the mark is there already, and an error in it is a large one in the noise.
            noisy = (1 / base.schedule.log_snr(t).exp()).clamp(max=1.0).to(said)
            error = (noisy.reshape(-1, 1, 1, 1) * (said - wanted).square()).mean()
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(error)
            nn.utils.clip_grad_norm_(layers, 1.0)
            optimizer.step()
            schedule.step()
            recent.append(float(error.detach()))
            progress(i + 1, steps)
        state = lora_state(unet)
    last = recent[-max(1, steps // 10) :]
    return TaughtLora(state, sum(last) / len(last))


@contextmanager
def _bare(unet: nn.Module) -> Iterator[None]:
    """The model as it was, without its layers, for the length of the block."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in unet.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False
