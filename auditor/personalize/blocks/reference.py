"""Pasting a reference picture into a sample: placed on the sample's subject, inverted, put in while denoising."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from auditor.personalize.blocks.ruled import Rule, Ruled
from auditor.pipeline.components import Components
from auditor.pipeline.conditioning import Conditioning
from auditor.pipeline.denoiser import Denoiser
from auditor.pipeline.sampling import ddim_invert, guided_noise

__all__ = ["Pasted", "fit_placement", "inverted_path", "placed"]

_SCALES = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.4)
_TURNS = tuple(math.radians(angle) for angle in range(-40, 41, 10))
_SHIFTS = (-0.1, 0.0, 0.1)


def fit_placement(mask: Tensor, target: Tensor) -> Tensor:
    """The similarity (scale, rotation, translation) that moves a mask onto another, least absolute difference.

    Args:
        mask: (1, 1, H, W) in [0, 1].
        target: (1, 1, H, W) in [0, 1].

    Returns:
        (1, 2, 3) for :func:`placed`: the best of a grid around the place where the centres of mass meet.
    """
    grid = [
        _similarity(mask, target, scale, turn, dx, dy)
        for scale, turn, dx, dy in itertools.product(_SCALES, _TURNS, _SHIFTS, _SHIFTS)
    ]
    found = torch.cat(grid)
    moved = placed(mask.expand(len(found), -1, -1, -1), found)
    best = int((moved - target).abs().sum((1, 2, 3)).argmin())
    return found[best : best + 1]


def placed(images: Tensor, placement: Tensor) -> Tensor:
    """Images (B, C, H, W) moved by placements (B, 2, 3); the border is continued."""
    grid = nn.functional.affine_grid(placement, list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def inverted_path(base: Components, clean: Tensor, condition: Conditioning, steps: int) -> dict[int, Tensor]:
    """DDIM backwards without guidance: timestep to the latents (B, C, h, w) that the picture passes at it."""
    path: list[tuple[int, Tensor]] = []
    denoiser = Denoiser(base)

    def watch(latents: Tensor, t: int) -> Tensor:
        path.append((t, latents))
        return denoiser.predict(latents, torch.full((len(latents),), t, device=latents.device), condition).epsilon

    last = ddim_invert(Ruled(base, watch), clean, condition, condition, steps)
    stride = len(base.schedule) // steps
    # The first evaluation is of the clean picture itself.
    return {**dict(path[1:]), min((steps - 1) * stride + 1, len(base.schedule) - 1): last}


@dataclass
class Pasted:
    """A rule and a hook for sampling that keep a region on a reference's path (HiFi Tuner, arXiv 2312.00079).

    From ``start`` steps before the end to ``end`` before it the empty prompt's states are trained so that each step
    lands on the path inside the region, and the region is then overwritten.

    Attributes:
        base: the model.
        path: timestep to latents of the reference.
        region: (1, 1, h, w), of zeros and ones.
        times: timesteps of the sampler, largest first.
        condition: timestep to condition (B rows).
        null: B rows; its states are what is trained.
        guidance: weight w.
        start: steps that are left where the reference is put in.
        end: steps that are left where it is let go.
        rounds: Adam steps on the empty prompt a sampler step.
        lr: their learning rate.
    """

    base: Components
    path: dict[int, Tensor]
    region: Tensor
    times: list[int]
    condition: dict[int, Conditioning]
    null: Conditioning
    guidance: float
    start: int
    end: int
    rounds: int = 10
    lr: float = 1e-2

    @property
    def rule(self) -> Rule:
        """For :func:`auditor.personalize.blocks.ruled.ruled_sample`."""
        denoiser = Denoiser(self.base)

        def rule(latents: Tensor, t: int) -> Tensor:
            left = len(self.times) - self.times.index(t)
            if self.end <= left <= self.start and left > 1:
                self.null = self._trained(denoiser, latents, t)
            return guided_noise(denoiser, latents, t, self.condition[t], self.null, self.guidance)

        return rule

    def overwrite(self, index: int, t: int, latents: Tensor) -> None:
        """A hook: puts the reference into the region of the latents that a step gave."""
        left = len(self.times) - index - 1
        if left > 0 and self.end - 1 <= left <= self.start:
            latents.copy_(torch.lerp(latents, self.path[self.times[index + 1]].expand_as(latents), self.region))

    def _trained(self, denoiser: Denoiser, latents: Tensor, t: int) -> Conditioning:
        following = self.times[self.times.index(t) + 1]
        schedule, here, there = self.base.schedule, torch.tensor([t]), torch.tensor([following])
        alpha, sigma = float(schedule.alpha(here)), float(schedule.sigma(here))
        to_alpha, to_sigma = float(schedule.alpha(there)), float(schedule.sigma(there))
        times = torch.full((len(latents),), t, device=latents.device)
        given = denoiser.predict(latents, times, self.condition[t]).epsilon.detach()
        states = nn.Parameter(self.null.states.detach().clone())
        adam = torch.optim.Adam([states], lr=self.lr)
        with torch.enable_grad():
            for _ in range(self.rounds):
                without = denoiser.predict(latents, times, Conditioning(states, self.null.pooled)).epsilon
                epsilon = without + self.guidance * (given - without)
                reached = to_alpha * (latents - sigma * epsilon) / alpha + to_sigma * epsilon
                loss = (self.region * (reached - self.path[following])).square().sum() / self.region.sum().clamp_min(1)
                adam.zero_grad()
                torch.autograd.backward(loss)
                adam.step()
        return Conditioning(states.detach(), self.null.pooled)


def _similarity(mask: Tensor, target: Tensor, scale: float, turn: float, dx: float, dy: float) -> Tensor:
    """The map from places of the result to places of the picture, as ``affine_grid`` wants it."""
    (from_x, from_y), (to_x, to_y) = _centre(mask), _centre(target)
    cos, sin = math.cos(turn) / scale, math.sin(turn) / scale
    x, y = to_x + dx, to_y + dy
    return torch.tensor([[[cos, sin, from_x - cos * x - sin * y], [-sin, cos, from_y + sin * x - cos * y]]])


def _centre(mask: Tensor) -> tuple[float, float]:
    rows, columns = (torch.linspace(-1 + 1 / n, 1 - 1 / n, n) for n in mask.shape[-2:])
    mass = mask[0, 0].cpu()
    total = float(mass.sum()) or 1.0
    return float((mass.sum(0) * columns).sum()) / total, float((mass.sum(1) * rows).sum()) / total
