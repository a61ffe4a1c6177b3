"""Fine-tuning of the denoiser, for a number of steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from auditor.errors import UsageError
from auditor.pipeline.components import Components
from auditor.pipeline.conditioning import encode_images, encode_prompts
from auditor.pipeline.denoiser import Denoiser
from watermark.removal.weights.swapping import swapped

__all__ = ["finetuned"]


@contextmanager
def finetuned(
    components: Components,
    images: Tensor,
    prompts: Sequence[str],
    *,
    steps: int,
    seed: int,
    rate: float = 1e-5,
    batch: int = 8,
) -> Iterator[None]:
    """The model with its denoiser trained further on pictures, all weights of it, for the length of the block.

    The loss is that of the velocity. A mark in the noise does not lie in the weights; what is asked is whether the
    detector, which inverts the base, still finds what the trained model draws.

    Args:
        components: the model.
        images: (N, 3, H, W) in [-1, 1].
        prompts: N.
        steps: of AdamW.
        seed: of batches, noise and timesteps.
        rate: learning rate.
        batch: pictures a step.

    Raises:
        UsageError: no pictures, or another number of prompts.
    """
    if not len(images) or len(images) != len(prompts):
        raise UsageError(
            f"fine-tuning takes pictures and a prompt for each, not {len(images)} and {len(prompts)}"
        )
    parameters = list(components.denoiser_model.parameters())
    with swapped({parameter: parameter.data.clone() for parameter in parameters}):
        _train(components, parameters, images, prompts, steps, seed, rate, batch)
        yield


def _train(
    components: Components,
    parameters: list[nn.Parameter],
    images: Tensor,
    prompts: Sequence[str],
    steps: int,
    seed: int,
    rate: float,
    batch: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    denoiser, schedule = Denoiser(components), components.schedule
    with torch.no_grad():
        clean = encode_images(components, images)
        conditions = encode_prompts(components, components.tokenizers, list(prompts))
    optimiser = torch.optim.AdamW(parameters, lr=rate)
    asked = [parameter.requires_grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            for _ in range(steps):
                rows = torch.randint(len(clean), (batch,), generator=generator)
                t = torch.randint(len(schedule), (batch,), generator=generator).to(clean.device)
                noise = torch.randn(clean[rows].shape, generator=generator).to(clean)
                noisy = denoiser.add_noise(clean[rows], noise, t)
                said = denoiser.predict(noisy, t, conditions[rows])
                loss = (said.velocity - schedule.velocity(noise, clean[rows], t)).square().mean()
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
    finally:
        for parameter, before in zip(parameters, asked, strict=True):
            parameter.requires_grad_(before)
            parameter.grad = None
