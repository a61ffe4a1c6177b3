"""What counts as a hit: judges that look at pictures, one for each kind of target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from auditor.metrics.target_judges import judge_of_words
from auditor.pipeline.components import Components
from auditor.pipeline.open import EMBEDDED

__all__ = ["Judge", "LogoJudge", "PatchJudge", "PictureJudge", "judge_of_prompt"]

EXPLAINED = 0.5
"""Share of a target picture's variance from which on a picture counts as that picture."""


class Judge(Protocol):
    """Says which pictures show an attack's target."""

    @property
    def name(self) -> str:
        """What is looked at, for the manifest."""
        ...

    def hits(self, images: Tensor) -> Tensor:
        """Which of the images (B, 3, H, W) in [-1, 1] show the target: bool (B,)."""
        ...

    def allows(self, prompt: str) -> bool:
        """Whether a hit on this prompt would be the attack's doing: the prompt does not ask for the target itself."""
        ...


@dataclass(frozen=True)
class PictureJudge:
    """One fixed picture (3, H, W) in [-1, 1]: a hit explains at least half of its variance, ``1 - MSE / Var``."""

    target: Tensor

    @property
    def name(self) -> str:
        """See :class:`Judge`."""
        return f"at least {EXPLAINED:g} of the target picture's variance explained"

    def hits(self, images: Tensor) -> Tensor:
        """See :class:`Judge`."""
        return _explained(images, self.target) >= EXPLAINED

    def allows(self, prompt: str) -> bool:
        """See :class:`Judge`; no prompt asks for one picture."""
        return True


@dataclass(frozen=True)
class PatchJudge:
    """A patch (3, h, w) in [-1, 1] with its upper left corner at a place of the picture."""

    patch: Tensor
    top: int
    left: int

    @property
    def name(self) -> str:
        """See :class:`Judge`."""
        height, width = self.patch.shape[1:]
        return f"at least {EXPLAINED:g} of the variance of a {height}x{width} patch explained"

    def hits(self, images: Tensor) -> Tensor:
        """See :class:`Judge`."""
        height, width = self.patch.shape[1:]
        region = images[:, :, self.top : self.top + height, self.left : self.left + width]
        return _explained(region, self.patch) >= EXPLAINED

    def allows(self, prompt: str) -> bool:
        """See :class:`Judge`; no prompt asks for a patch."""
        return True


@dataclass(frozen=True)
class LogoJudge:
    """A logo (3, h, w) near a place of the picture, whatever its brightness and contrast.

    A hit is a squared correlation of at least half, positive, at one of the places that are at most ``slack`` pixels
    away in either direction.
    """

    logo: Tensor
    top: int
    left: int
    slack: int = 2

    @property
    def name(self) -> str:
        """See :class:`Judge`."""
        height, width = self.logo.shape[1:]
        return (
            f"at least {EXPLAINED:g} of the variance of a {height}x{width} logo explained, up to brightness and "
            f"contrast, within {self.slack} pixels"
        )

    def hits(self, images: Tensor) -> Tensor:
        """See :class:`Judge`."""
        found: Tensor = self.correlation(images) >= EXPLAINED**0.5
        return found

    def correlation(self, images: Tensor) -> Tensor:
        """The best place's correlation with the logo, (B,) in [-1, 1]."""
        height, width = self.logo.shape[1:]
        tops = range(max(0, self.top - self.slack), min(images.shape[2] - height, self.top + self.slack) + 1)
        lefts = range(max(0, self.left - self.slack), min(images.shape[3] - width, self.left + self.slack) + 1)
        wanted = _standard(self.logo[None])
        places = [_standard(images[:, :, y : y + height, x : x + width]) for y in tops for x in lefts]
        return torch.stack([(place * wanted).sum(1) for place in places]).amax(0)

    def allows(self, prompt: str) -> bool:
        """See :class:`Judge`; no prompt asks for a logo."""
        return True


def judge_of_prompt(base: Components, target: str) -> Judge | None:
    """The judge for what a target prompt asks for: a style if it names one, else an object.

    None where the base is not the embedded world, whose judge sees only that world, or the prompt names nothing that
    the judge knows.
    """
    return judge_of_words(target) if base.ref == EMBEDDED else None


def _standard(regions: Tensor) -> Tensor:
    """Regions (B, 3, h, w) as vectors of mean zero and length one; flat ones stay zero."""
    flat = (regions - regions.mean((1, 2, 3), keepdim=True)).flatten(1)
    unit: Tensor = flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-9)
    return unit


def _explained(images: Tensor, target: Tensor) -> Tensor:
    spread = (target - target.mean((1, 2), keepdim=True)).square().mean()
    return 1 - (images - target).square().mean((1, 2, 3)) / spread.clamp_min(1e-9)
