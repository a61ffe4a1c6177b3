"""From pictures back to the noise they were drawn from, as far as a mark needs it and no further.

Prompt and adapter are unknown to a detector, so that it inverts the base with the empty prompt and without guidance.
What is lost on the way is lost mostly in the autoencoder: its encoder does not undo its decoder, and inversion
magnifies the difference. A few rounds of ``z <- z + E(x) - E(D(z))`` find latents that the decoder turns into the
picture, without a gradient (after S. Hong et al., "Gradient-free Decoder Inversion in Latent Diffusion Models", NeurIPS
2024, arXiv 2409.18442).

Detection climbs a ladder of dearer and better inversions and leaves it where the mark is found. Each rung spends a
declared share of the level, so that the best of all rungs holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from watermark.detection import Detection

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from auditor.pipeline.view import View

__all__ = ["LADDER", "QUICK", "Encoding", "Reached", "Rung", "climb", "invert", "ladder_of", "noise_at"]


@dataclass(frozen=True)
class Rung:
    """One inversion of the ladder.

    Attributes:
        steps: of the sampler that is inverted; 0 takes the clean latents for the noise, which they still resemble.
        rounds: of decoder inversion, in all.
        looks: one over the share of the level that it spends.
    """

    steps: int
    rounds: int
    looks: int


LADDER = (Rung(0, 0, 8), Rung(2, 0, 8), Rung(5, 8, 4), Rung(20, 16, 2))
_SHALLOW = (Rung(1, 0, 4), Rung(3, 2, 4), Rung(5, 8, 2))
_CLEAN = (Rung(0, 0, 2), Rung(0, 16, 2))
"""Shares of each add up to 1. One step says no more than none; two find nearly all that a log of nonces finds."""


def ladder_of(share: float) -> tuple[Rung, ...]:
    """The ladder for marks that stand at a share of the schedule (:attr:`watermark.scheme.LatentScheme.share`)."""
    return LADDER if share == 1 else _SHALLOW if share > 0 else _CLEAN

QUICK = (Rung(0, 0, 2), Rung(2, 0, 2))
"""Without decoder inversion and without long inversions: for many pictures, most of them unmarked."""


@dataclass(frozen=True)
class Reached:
    """Where a picture got to on the ladder.

    Attributes:
        detection: its best, corrected for the share of its rung; ``details`` names steps and rounds.
        latents: as inverted there, float32 (C, h, w).
        rung: where that was.
    """

    detection: Detection
    latents: NDArray[np.float32]
    rung: Rung


Test = Callable[["NDArray[np.float32]"], Detection]
"""From one picture's latents (C, h, w) to what they say."""


class Encoding:
    """Pictures as latents, made better round by round.

    Args:
        view: the model that may have drawn them.
        images: (B, 3, H, W) in [-1, 1].
    """

    def __init__(self, view: View, images: Tensor) -> None:
        self._view = view
        self._target = view.encode_image(images)
        self._best, self._short = self._target, torch.zeros_like(self._target)
        self._error = torch.full((len(images), 1, 1, 1), torch.inf, device=self._target.device)
        self._pace = torch.ones_like(self._error)
        self._rounds = 0

    def keep(self, rows: Sequence[int]) -> None:
        """Goes on with some of the pictures."""
        for name in ("_target", "_best", "_short", "_error", "_pace"):
            setattr(self, name, getattr(self, name)[list(rows)])

    def refined(self, rounds: int) -> Tensor:
        """Latents after so many rounds in all: (B, C, h, w), float32.

        A picture for which a round made things worse goes back, and on with half the pace.
        """
        while self._rounds < rounds:
            tried = self._best + self._pace * self._short
            short = self._target - self._view.encode_image(self._view.decode(tried))
            error = short.square().sum((1, 2, 3), keepdim=True)
            better = error < self._error
            self._best = torch.where(better, tried, self._best)
            self._short = torch.where(better, short, self._short)
            self._pace = torch.where(better, self._pace, self._pace / 2)
            self._error = torch.minimum(error, self._error)
            self._rounds += 1
        return self._best + self._pace * self._short


def invert(
    view: View, images: Tensor, steps: int = 20, rounds: int = 0, batch: int = 32, share: float = 1.0
) -> NDArray[np.float32]:
    """Inverts pictures with the empty prompt and without guidance.

    Args:
        view: the model, as a rule the base.
        images: (B, 3, H, W) in [-1, 1].
        steps: of the model's default sampler; 0 encodes only.
        rounds: of decoder inversion.
        batch: pictures at a time.
        share: of the schedule up to which they are inverted; below 1 what comes back is the noise that stands there.

    Returns:
        float32 (B, C, h, w).
    """
    parts = []
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        parts.append(_noise(view, Encoding(view, part).refined(rounds), steps, share))
    return np.concatenate(parts)


def climb(
    view: View,
    images: Tensor,
    test: Test,
    alpha: float,
    ladder: Sequence[Rung] = (),
    batch: int = 32,
    first: Test | None = None,
    share: float = 1.0,
) -> list[Reached]:
    """Tests pictures on the ladder, each until its mark is found.

    Args:
        view: the model.
        images: (B, 3, H, W) in [-1, 1].
        test: what one picture's latents (C, h, w) say.
        alpha: level at which a picture leaves the ladder. The p-values hold at every level.
        ladder: rungs whose shares add up to 1 at most; :func:`ladder_of` ``share`` if empty.
        batch: pictures at a time.
        first: what latents that were encoded only are asked in place of ``test``, on rungs without steps.
        share: of the schedule at which the mark stands.

    Returns:
        For each picture the smallest p-value of the rungs it visited, divided by the rung's share.
    """
    found: list[Reached] = []
    rungs = ladder or ladder_of(share)
    for start in range(0, len(images), batch):
        found += _climb(view, images[start : start + batch], test, alpha, rungs, first or test, share)
    return found


def _climb(
    view: View,
    images: Tensor,
    test: Test,
    alpha: float,
    ladder: Sequence[Rung],
    first: Test,
    share: float,
) -> list[Reached]:
    best: dict[int, Reached] = {}
    left = list(range(len(images)))
    encoding = Encoding(view, images)
    for rung in ladder:
        noise = _noise(view, encoding.refined(rung.rounds), rung.steps, share)
        for row, latents in zip(left, noise, strict=True):
            asked = test if rung.steps else first
            detection = asked(latents).corrected(rung.looks).noting(steps=rung.steps, rounds=rung.rounds)
            if row not in best or detection.p_value < best[row].detection.p_value:
                best[row] = Reached(detection, latents, rung)
        staying = [i for i, row in enumerate(left) if best[row].detection.p_value > alpha]
        if not staying:
            break
        encoding.keep(staying)
        left = [left[i] for i in staying]
    return [best[row] for row in range(len(images))]


def _noise(view: View, clean: Tensor, steps: int, share: float) -> NDArray[np.float32]:
    if steps and share == 1:
        noise = view.invert_latents(clean, [""] * len(clean), steps=steps)
    else:
        noise = noise_at(view, clean, share, steps) if steps else clean
    found: NDArray[np.float32] = noise.float().cpu().numpy()
    return found


def noise_at(view: View, clean: Tensor, share: float, steps: int) -> Tensor:
    """The noise (B, C, h, w) that stands beside clean latents at a share of the schedule, by so many steps back.

    Each step keeps what the model predicts, with the coefficients of the next position: DDIM walked backwards, or
    Euler's method for flow matching.

    Args:
        view: the model, asked with the empty prompt.
        clean: latents (B, C, h, w).
        share: in (0, 1).
        steps: evaluations of the denoiser a picture.
    """
    schedule, condition = view.schedule, view.encode_prompt([""] * len(clean))
    if view.components.kind.guidance_distilled:
        condition = condition.told(1.0)
    top = share * (len(schedule) - 1)
    latents = clean.float()
    for i in range(steps):
        here, there = (torch.full((len(clean),), top * k / steps, device=clean.device) for k in (i, i + 1))
        # The noise of clean latents is asked for one step up, where there is some.
        said = view.denoiser.predict(latents, here if i else there, condition)
        known = said.x0 if i else clean.float()
        latents = schedule.alpha(there) * known + schedule.sigma(there) * said.epsilon
    return (latents - schedule.alpha(there) * clean.float()) / schedule.sigma(there)
