"""Pictures on their way, as detectors look at them: attention to every token and predicted noise, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from auditor.personalize.blocks.attention import recorded
from auditor.pipeline.conditioning import Conditioning, token_ids
from auditor.pipeline.sampling import ddim_timesteps, seeded_noise
from auditor.pipeline.view import View

__all__ = ["FINE", "Trajectory", "trajectories"]

STEPS = 50
"""Of the schedule that the papers' figures are for."""
FINE, STRIDE = 8, 7
"""The first steps are taken one by one, as DAA looks at them; of the rest, every seventh."""


@dataclass(frozen=True)
class Trajectory:
    """One prompt's way.

    Attributes:
        maps: (T, L, side, side) attention to the tokens from the start of text to its end, mean over layers and heads.
        weights: (T,) how many of the 50 steps each stands for.
        noise: (T, C, h, w) guided predictions of the noise.
    """

    maps: NDArray[np.float32]
    weights: NDArray[np.float64]
    noise: NDArray[np.float32]

    @property
    def mean_maps(self) -> NDArray[np.float64]:
        """(L - 1, side, side), over the whole way, without the start of text."""
        return np.average(self.maps[:, 1:], axis=0, weights=self.weights)


@torch.no_grad()
def trajectories(
    view: View, prompts: Sequence[str], seeds: Sequence[int], guidance: float = 3.0, side: int = 16
) -> list[Trajectory]:
    """Draws by deterministic DDIM in all of :data:`FINE` first steps of 50 and in some of the others.

    Args:
        view: of a model with a UNet and one text encoder.
        prompts: B prompts, as many as are evaluated at once.
        seeds: B seeds.
        guidance: classifier-free guidance weight.
        side: that maps are scaled to.
    """
    schedule, base = view.schedule, view.components
    every = ddim_timesteps(len(schedule), STEPS)
    times = every[:FINE] + every[FINE::STRIDE]
    weights = np.array([1.0] * FINE + [float(len(every[i : i + STRIDE])) for i in range(FINE, STEPS, STRIDE)])
    both = Conditioning.join([view.encode_null(len(prompts)), view.encode_prompt(prompts)])
    latents = seeded_noise(view.latent_shape(), seeds).to(base.device)
    maps, noise = [], []
    for t, following in zip(times, [*times[1:], times[-1]], strict=True):
        at = torch.full((2 * len(prompts),), t, device=latents.device)
        with recorded(base) as seen:
            said = view.denoiser.predict(torch.cat([latents, latents]), at, both).epsilon
        without, given = said.chunk(2)
        epsilon = without + guidance * (given - without)
        maps.append(_mean_map(seen.maps, len(prompts), side))
        noise.append(epsilon.cpu())
        here, there = (torch.full((len(prompts),), step, device=latents.device) for step in (t, following))
        clean = (latents - schedule.sigma(here) * epsilon) / schedule.alpha(here)
        latents = schedule.alpha(there) * clean + schedule.sigma(there) * epsilon
    lengths = _lengths(view, prompts)
    return [
        Trajectory(
            np.stack([step[i, :length].numpy() for step in maps]),
            weights,
            np.stack([step[i].numpy() for step in noise]),
        )
        for i, length in enumerate(lengths)
    ]


def _mean_map(maps: dict[str, Tensor], prompts: int, side: int) -> Tensor:
    """(prompts, tokens, side, side) of the rows that were given the prompts, which come last."""
    scaled = []
    for probabilities in maps.values():
        one = probabilities[-prompts:].mean(1).transpose(1, 2)
        edge = int(one.shape[2] ** 0.5)
        square = one.reshape(prompts, -1, edge, edge)
        scaled.append(F.interpolate(square, (side, side), mode="bilinear", align_corners=False))
    return torch.stack(scaled).mean(0).float().cpu()


def _lengths(view: View, prompts: Sequence[str]) -> list[int]:
    """Tokens from the start of text to its end."""
    tokenizer: Any = next(iter(view.tokenizers.values()))
    ids = token_ids(tokenizer, prompts)
    return [int((row == tokenizer.eos_token_id).int().argmax()) + 1 for row in ids]
