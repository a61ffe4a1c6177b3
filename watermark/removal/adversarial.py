"""Adversarial noise: projected gradient descent against the encoder, or against a classifier of marked pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auditor.errors import UsageError
from watermark.removal.attack import Effect, Removal

if TYPE_CHECKING:
    from auditor.pipeline.components import Components

__all__ = ["against_encoder", "against_surrogate", "descend", "train_surrogate"]

_REFS = (
    "A. Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018, arXiv 1706.06083",
    "B. An et al., WAVES, ICML 2024, arXiv 2401.08573",
)
_UNIT = "largest change of a value, in steps of 256"


def descend(
    images: Tensor, loss: Callable[[Tensor], Tensor], radius: float, steps: int, seeds: Sequence[int]
) -> Tensor:
    """Pictures within ``radius`` of the given ones, of lower loss.

    Steps of the gradient's sign, of 2.5 radii in all, from a random start; every picture goes its own way.

    Args:
        images: (B, 3, H, W) in [0, 1].
        loss: pictures to (B,), each row of its own picture alone.
        radius: largest change of a value.
        steps: of the descent.
        seeds: of the starts.
    """
    draws = [torch.rand(images.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    change = radius * (2 * torch.stack(draws).to(images) - 1)
    for _ in range(steps):
        change = change.detach().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(loss((images + change).clamp(0, 1)).sum(), change)
        change = (change.detach() - 2.5 * radius / steps * gradient.sign()).clamp(-radius, radius)
    return (images + change.detach()).clamp(0, 1)


def against_encoder(components: Components, steps: int = 20) -> Removal:
    """Drives the latents that a public encoder sees as far away as may be.

    Args:
        components: the model whose autoencoder is attacked, with its weights as they stand.
        steps: of the descent.
    """
    from auditor.pipeline.conditioning import encode_images

    def effect(images: Tensor, strength: float, seeds: Sequence[int]) -> Tensor:
        with torch.no_grad():
            before = encode_images(components, images * 2 - 1)

        def loss(now: Tensor) -> Tensor:
            return -(encode_images(components, now * 2 - 1) - before).square().mean(dim=(1, 2, 3))

        return descend(images, loss, strength / 255, steps, seeds)

    return _removal("adversarial_encoder", "Add a small change that drives the encoder's latents far away.", effect)


def against_surrogate(surrogate: nn.Module, steps: int = 20) -> Removal:
    """Makes a classifier take marked pictures for clean ones.

    Args:
        surrogate: pictures (B, 3, H, W) in [-1, 1] to logits (B,) that they are marked; see :func:`train_surrogate`.
        steps: of the descent.
    """

    def effect(images: Tensor, strength: float, seeds: Sequence[int]) -> Tensor:
        def loss(now: Tensor) -> Tensor:
            logits: Tensor = surrogate(now * 2 - 1)
            return logits

        return descend(images, loss, strength / 255, steps, seeds)

    goal = "Add a small change that makes a classifier of marked pictures see a clean one."
    return _removal("adversarial_surrogate", goal, effect)


def _removal(name: str, goal: str, effect: Effect) -> Removal:
    """Both have one budget, so that they can be compared."""
    return Removal(name, goal, unit=_UNIT, grid=(2, 4, 8), least=0, most=64, refs=_REFS, effect=effect)


def train_surrogate(marked: Tensor, clean: Tensor, seed: int, steps: int = 300, batch: int = 32) -> nn.Module:
    """A small network that tells marked pictures from clean ones, as far as that can be learnt.

    Args:
        marked: (N, 3, H, W) in [-1, 1].
        clean: (M, 3, H, W) in [-1, 1].
        seed: of weights and batches.
        steps: of training.
        batch: pictures of each kind a step.

    Returns:
        In evaluation mode, without gradients: pictures to logits (B,).

    Raises:
        UsageError: no pictures of a kind, or of different sizes.
    """
    if not len(marked) or not len(clean) or marked.shape[1:] != clean.shape[1:]:
        raise UsageError(
            "a surrogate is trained on marked and clean pictures of one size, one of each at least"
        )
    generator = torch.Generator().manual_seed(seed)
    net = _small_net(generator)
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3)
    with torch.enable_grad():
        for _ in range(steps):
            rows = [torch.randint(len(kind), (batch,), generator=generator) for kind in (marked, clean)]
            seen = torch.cat([marked[rows[0]], clean[rows[1]]]).float()
            wanted = torch.cat([torch.ones(batch), torch.zeros(batch)])
            optimiser.zero_grad()
            F.binary_cross_entropy_with_logits(net(seen), wanted).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return net.eval().requires_grad_(False)


def _small_net(generator: torch.Generator) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(8, after), nn.SiLU()]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64 * 16, 1), nn.Flatten(0))
    for parameter in net.parameters():
        if parameter.ndim > 1:
            fan = parameter[0].numel()
            parameter.data = torch.randn(parameter.shape, generator=generator) * (2 / fan) ** 0.5
    return net
