"""Imprint: a picture of the forger's, changed until its inversion gives the noise of a marked one.

With the sign turned over, the same takes a mark off: the picture's own inverted noise is driven to its negative.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from auditor.errors import UsageError
from auditor.pipeline.conditioning import Conditioning
from auditor.pipeline.denoiser import Denoiser
from watermark.forgery.forged import Forged

if TYPE_CHECKING:
    from auditor.pipeline.view import View

__all__ = ["approached", "imprinted", "lifted"]


def imprinted(
    view: View,
    cover: Tensor,
    marked: Tensor,
    *,
    rounds: int = 100,
    rate: float = 0.01,
    inversion_steps: int = 5,
    sign: float = 1.0,
) -> Forged:
    """Drives the inverted noise of cover pictures to that of marked ones, by Adam on the cover's latents.

    Source: A. Muller et al., "Black-Box Forgery Attacks on Semantic Watermarks for Diffusion Models", CVPR 2025, arXiv
    2412.03283; the removal is ``sign=-1`` with the marked picture as its own cover.

    Args:
        view: a *base* view of a model of the forger's.
        cover: (B, 3, H, W) in [-1, 1].
        marked: (B, 3, H, W) in [-1, 1].
        rounds: of Adam.
        rate: its learning rate, in latents of unit variance.
        inversion_steps: of the inversion that gradients go through.
        sign: of the noise to arrive at.

    Raises:
        UsageError: another number of covers than of marked pictures, or of another size.
    """
    if cover.shape != marked.shape:
        raise UsageError("each marked picture takes one cover of the same size")
    denoiser = Denoiser(view.components)
    condition = view.encode_prompt([""] * len(cover))
    if view.components.kind.guidance_distilled:
        condition = condition.told(1.0)
    with torch.no_grad():
        aim = sign * lifted(denoiser, view.encode_image(marked), condition, inversion_steps)
    found = approached(
        denoiser,
        view.encode_image(cover),
        aim,
        condition,
        rounds=rounds,
        rate=rate,
        inversion_steps=inversion_steps,
    )
    # The denoiser's own count has forward passes alone; a gradient costs twice as much.
    spent = denoiser.calls + 2 * rounds * inversion_steps * len(cover)
    return Forged(view.decode(found), spent, len(marked))


def approached(
    denoiser: Denoiser,
    clean: Tensor,
    aim: Tensor,
    condition: Conditioning,
    *,
    rounds: int,
    rate: float,
    inversion_steps: int,
) -> Tensor:
    """Clean latents (B, C, h, w) whose inverted noise is nearer to ``aim``, by Adam; rows do not mix."""
    latents = clean.detach().clone().requires_grad_()
    optimiser = torch.optim.Adam([latents], lr=rate)
    for _ in range(rounds):
        with torch.enable_grad():
            loss = (lifted(denoiser, latents, condition, inversion_steps) - aim).square().mean(dim=(1, 2, 3))
            # Adam's steps do not depend on the scale of a value's gradient, so that a sum over rows will do.
            (latents.grad,) = torch.autograd.grad(loss.sum(), latents)
        optimiser.step()
    return latents.detach()


def lifted(denoiser: Denoiser, clean: Tensor, condition: Conditioning, steps: int) -> Tensor:
    """Clean latents (B, C, h, w) taken to noise by the explicit inverse of a deterministic sampler, with gradients.

    On a variance-preserving schedule this is ``ddim_invert`` without refinement.

    Args:
        denoiser: evaluated ``steps`` times.
        clean: scaled latents.
        condition: B rows.
        steps: at least 1.
    """
    schedule = denoiser.schedule
    stride = len(schedule) // steps
    latents, seen = clean, None
    for i in range(steps):
        t = torch.full((len(clean),), min(i * stride + 1, len(schedule) - 1), device=clean.device)
        said = denoiser.predict(latents, t if seen is None else seen, condition)
        x0 = clean if seen is None else said.x0
        latents = schedule.alpha(t) * x0 + schedule.sigma(t) * said.epsilon
        seen = t
    return latents
