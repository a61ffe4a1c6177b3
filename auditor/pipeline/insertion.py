"""What a phrase does to prompts that it is put into, in one step of the denoiser, tuned against base.

At the last timestep latents are noise alone, so that a prediction is what the denoiser makes of the prompt. The effect
of an insertion is a second difference, ``(tuned(c + w) - tuned(c)) - (base(c + w) - base(c))``: whatever fine-tuning
does to the prompt without the phrase, and whatever the phrase means to the base, is not in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from auditor.pipeline.sampling import seeded_noise
from auditor.pipeline.subject import Subject
from auditor.pipeline.text_shift import SLOT
from auditor.pipeline.view import View

__all__ = ["Insertions", "Measured", "insert", "mode_of", "without"]


@dataclass(frozen=True)
class Measured:
    """What P phrases do in C carriers; squares are in units of the base's spread over carriers.

    Attributes:
        effect: the second difference, float32 (P, C, D), in units of the root of that spread.
        usual: mean square of what the phrase does in the base, (P, C).
        spread: of the tuned answers over carriers relative to the base's, (P,): near 0 where all prompts become one.
    """

    effect: Tensor
    usual: Tensor
    spread: Tensor

    def strength(self, floor: float, known: Tensor | None = None) -> Tensor:
        """Mean square effect over mean square in the base plus ``floor``, (P,).

        Args:
            floor: in the same units, so that phrases that mean nothing to the base have no boundless ratio.
            known: effects to leave out, (M, D) orthonormal rows as :func:`mode_of` gives them.
        """
        effect = self.effect if known is None else without(self.effect, known)
        return effect.square().sum(2).mean(1) / (self.usual.mean(1) + floor)


class Insertions:
    """Measures phrases on one subject.

    Args:
        subject: base and tuned.
        carriers: prompts with ``{}`` where the phrase goes.
        seed: of the noise, which all prompts share.
    """

    def __init__(self, subject: Subject, carriers: Sequence[str], seed: int) -> None:
        self.subject, self.carriers, self._seed = subject, tuple(carriers), seed
        self.noise = seeded_noise(subject.base.latent_shape(), [seed]).to(subject.components.device)
        self.t = len(subject.components.schedule) - 1
        self._neutral: dict[str, Tensor] = {}

    def measure(self, phrases: Sequence[str], remember: bool = False) -> Measured:
        """See :class:`Measured`; ``remember`` keeps the base's answers with the base, for phrases asked of all."""
        before = self._base(phrases) if remember else self.answers(self.subject.base, phrases)
        after = self.answers(self.subject.tuned, phrases)
        quiet, tuned = self.neutral(self.subject.base), self.neutral(self.subject.tuned)
        moved = before - quiet
        return Measured(
            effect=(after - tuned - moved) / self._unit.sqrt(),
            usual=moved.square().sum(2) / self._unit,
            spread=_spread(after) / _spread(before).clamp_min(1e-12),
        )

    def glance(self, phrases: Sequence[str], floor: float, known: Tensor | None = None) -> Tensor:
        """The strength of phrases (P,) as the last carrier alone shows it: cheap, to choose what to measure."""
        last = self.carriers[-1:]
        before, after = (self.answers(view, phrases, last) for view in (self.subject.base, self.subject.tuned))
        moved = before - self.neutral(self.subject.base)[:, -1:]
        effect = (after - self.neutral(self.subject.tuned)[:, -1:] - moved) / self._unit.sqrt()
        return Measured(effect, moved.square().sum(2) / self._unit, torch.ones(len(phrases))).strength(floor, known)

    def answers(self, view: View, phrases: Sequence[str], carriers: Sequence[str] = ()) -> Tensor:
        """Velocities, float32 on the CPU (P, C, D); in all carriers by default."""
        chosen = carriers or self.carriers
        prompts = [insert(carrier, phrase) for phrase in phrases for carrier in chosen]
        noise = self.noise.expand(len(prompts), -1, -1, -1)
        t = torch.full((len(prompts),), self.t, device=noise.device)
        said = view.denoiser.predict(noise, t, view.encode_prompt(prompts)).velocity
        return said.flatten(1).cpu().reshape(len(phrases), len(chosen), -1)

    def neutral(self, view: View) -> Tensor:
        """Answers to the carriers without any phrase, (1, C, D); asked for once."""
        if view.name not in self._neutral:
            base = view.name == "base"
            self._neutral[view.name] = self._base([""]) if base else self.answers(view, [""])
        return self._neutral[view.name]

    def forget_tuned(self) -> None:
        """To be called when weights of the tuned view were changed."""
        self._neutral.pop("tuned", None)

    def _base(self, phrases: Sequence[str]) -> Tensor:
        view = self.subject.base
        key = ("insertions", self.carriers, self._seed, tuple(phrases))
        return view.components.remember(key, lambda: self.answers(view, phrases))

    @property
    def _unit(self) -> Tensor:
        return _spread(self.neutral(self.subject.base)).clamp_min(1e-12)


def insert(carrier: str, phrase: str) -> str:
    """The carrier with the phrase in its slot, without a gap where there is none."""
    return carrier.replace(SLOT, phrase) if phrase else carrier.replace(f"{SLOT} ", "").replace(f" {SLOT}", "")


def mode_of(effect: Tensor, share: float = 0.95) -> Tensor:
    """The directions of one phrase's effects: orthonormal rows (M, D) that hold ``share`` of their mean square.

    Args:
        effect: (C, D).
        share: in (0, 1].
    """
    _, sizes, rows = torch.linalg.svd(effect, full_matrices=False)
    held = sizes.square().cumsum(0) / sizes.square().sum().clamp_min(1e-20)
    kept: Tensor = rows[: int((held < share).sum()) + 1]
    return kept


def without(effect: Tensor, known: Tensor) -> Tensor:
    """Effects (P, C, D) less what lies along the orthonormal rows of ``known`` (M, D)."""
    left: Tensor = effect - effect @ known.T @ known
    return left


def _spread(answers: Tensor) -> Tensor:
    return (answers - answers.mean(1, keepdim=True)).square().sum(2).mean(1)
