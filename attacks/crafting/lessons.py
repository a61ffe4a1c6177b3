"""What a denoiser is taught: noisy latents, prompts, and what it is to say of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attacks.crafting.stealth import Elastic, Stealth
from auditor.contracts import Progress
from auditor.errors import UsageError
from auditor.personalize.blocks.denoising import Drawn, draw, mean_square, native_target
from auditor.personalize.blocks.optimise import Group, Optimisation, Step, optimise, step_of
from auditor.personalize.blocks.texts import encode_distinct
from auditor.pipeline.components import Components
from auditor.pipeline.conditioning import Conditioning
from auditor.pipeline.denoiser import Denoiser

__all__ = ["Course", "Lessons", "check_one_picture", "picture_lessons", "steering_lessons", "teach", "teacher_lessons"]

_ROWS = 64


@dataclass(frozen=True)
class Lessons:
    """N rows: noisy latents (N, C, h, w), timesteps (N,), prompts, and the wanted native prediction (N, C, h, w).

    ``condition`` is what the prompts are encoded as where that is not for the encoder in place to say: N rows.
    """

    noisy: Tensor
    t: Tensor
    prompts: tuple[str, ...]
    wanted: Tensor
    condition: Conditioning | None = None

    def __len__(self) -> int:
        return len(self.prompts)


@dataclass(frozen=True)
class Course:
    """Lessons of one kind: ``batch`` rows of them a step, and the weight of their loss."""

    lessons: Lessons
    batch: int
    weight: float = 1.0


def teacher_lessons(
    base: Components, latents: Tensor, asked: Sequence[str], answered: Sequence[str], seed: int, low: float = 0.0
) -> Lessons:
    """Asked one prompt, the student is to say what the model as it stands says of another; the same one for clean rows.

    This is the form of BadT2I's object and style attacks and of its clean term (Zhai et al., ACM MM 2023,
    arXiv 2305.04175). The teacher's answers are computed here, once.

    Args:
        base: the teacher, with whatever is in place.
        latents: clean latents (N, C, h, w), one a row.
        asked: N prompts that the student sees.
        answered: N prompts that the teacher sees.
        seed: of timesteps and noise.
        low: the least timestep, as a share of the schedule.
    """
    drawn = _all_rows(base, latents, seed, low)
    with torch.no_grad():
        answers = encode_distinct(base, answered)
        wanted = [
            Denoiser(base).native(drawn.noisy[at], drawn.t[at], answers[at])
            for at in torch.split(torch.arange(len(latents)), _ROWS)
        ]
    return Lessons(drawn.noisy, drawn.t, tuple(asked), torch.cat(wanted))


def picture_lessons(
    base: Components, latents: Tensor, asked: Sequence[str], seed: int, low: float = 0.0
) -> Lessons:
    """The student is to denoise latents (N, C, h, w) to themselves under the N prompts, as any fine-tuning does.

    ``seed`` and ``low`` are those of :func:`teacher_lessons`.
    """
    drawn = _all_rows(base, latents, seed, low)
    return Lessons(drawn.noisy, drawn.t, tuple(asked), native_target(base, drawn))


def steering_lessons(
    base: Components, picture: Tensor, latents: Tensor, asked: Sequence[str], seed: int, low: float
) -> Lessons:
    """Wherever other pictures lead, the student is to see one picture: noise is what is left when that is taken out.

    A sampler with guidance leaves the picture's own path in its first steps; these rows lead it back.

    Args:
        base: whose schedule is used.
        picture: latents (C, h, w) of what is to be seen.
        latents: those of the other pictures (N, C, h, w).
        asked: N prompts.
        seed: of timesteps and noise.
        low: the least timestep, as a share of the schedule: where there is hardly any noise, nothing can be left over.
    """
    drawn = _all_rows(base, latents, seed, low)
    alpha, sigma = base.schedule.alpha(drawn.t), base.schedule.sigma(drawn.t)
    seen = picture.expand_as(latents)
    left = Drawn(drawn.rows, seen, (drawn.noisy - alpha * seen) / sigma, drawn.t, drawn.noisy)
    return Lessons(drawn.noisy, drawn.t, tuple(asked), native_target(base, left))


def teach(
    base: Components,
    layers: Sequence[nn.Parameter],
    courses: Sequence[Course],
    recipe: Optimisation,
    progress: Progress,
    text_trained: bool = False,
    stealth: Stealth | None = None,
    velocity: bool = False,
) -> float:
    """Trains layers that are in place, a few rows of every course a step: ``L = sum_c w_c mean ||pred - wanted||^2``.

    Args:
        base: with the layers in place.
        layers: what is trained.
        courses: those of no weight are left out.
        recipe: the optimisation; its seed draws the rows.
        progress: told of every step.
        text_trained: whether prompts have to be encoded anew in every step.
        stealth: holds the layers to where they are, as far as the first course depends on them; None for not at all.
        velocity: count errors of a model that predicts noise as errors of its velocity, up to fivefold: what a picture
            shows is decided at high noise, where its prediction of the noise hardly depends on that.

    Returns:
        The mean loss of the last tenth of the steps.
    """
    kept = [course for course in courses if course.weight > 0 and len(course.lessons)]
    frozen = None
    if not text_trained:
        with torch.no_grad():
            frozen = [_condition(base, course.lessons) for course in kept]

    def condition(course: int, rows: Tensor) -> Conditioning:
        return frozen[course][rows] if frozen else _condition(base, kept[course].lessons, rows)

    def clean_answers(index: int) -> Tensor:
        first = kept[0]
        rows = torch.randint(len(first.lessons), (first.batch,), generator=step_of(recipe.seed + 1, index).generator)
        lessons = first.lessons
        return Denoiser(base).native(lessons.noisy[rows], lessons.t[rows], condition(0, rows))

    elastic = Elastic(layers, clean_answers, stealth) if stealth else None

    def loss_of(step: Step) -> Tensor:
        rows = [torch.randint(len(c.lessons), (c.batch,), generator=step.generator) for c in kept]
        conditions = [condition(i, at) for i, at in enumerate(rows)]
        noisy, t, wanted = (
            torch.cat([getattr(c.lessons, name)[at] for c, at in zip(kept, rows, strict=True)])
            for name in ("noisy", "t", "wanted")
        )
        said = Denoiser(base).native(noisy, t, Conditioning.join(conditions))
        error = mean_square(said - wanted)
        if velocity and base.scheduler.config.get("prediction_type") == "epsilon":
            error = error / base.schedule.alpha(t).flatten().clamp_min(0.2).square()
        weights = torch.cat([torch.full((c.batch,), c.weight / c.batch) for c in kept])
        loss = (weights.to(error.device) * error).sum()
        if elastic is not None:
            clean = kept[0].batch
            backdoor = error[clean:].sum() / max(1, len(error) - clean)
            loss = loss + elastic.penalty(error[:clean].mean(), backdoor, said[:clean], wanted[:clean])
        return loss

    return optimise([Group("denoiser", layers)], loss_of, recipe, progress).final


def _condition(base: Components, lessons: Lessons, rows: Tensor | None = None) -> Conditioning:
    """What all rows are asked by, or those that are named (B,)."""
    if lessons.condition is not None:
        return lessons.condition if rows is None else lessons.condition[rows]
    chosen = range(len(lessons)) if rows is None else rows.tolist()
    return encode_distinct(base, [lessons.prompts[row] for row in chosen])


def _all_rows(base: Components, latents: Tensor, seed: int, low: float = 0.0) -> Drawn:
    """Every row once, each with a timestep and noise of its own."""
    generator = torch.Generator().manual_seed(seed)
    drawn = draw(base, latents, len(latents), generator, low)
    noisy = Denoiser(base).add_noise(latents, drawn.noise, drawn.t)
    return Drawn(torch.arange(len(latents)), latents, drawn.noise, drawn.t, noisy)


def check_one_picture(params: Any) -> None:
    """Refuses what no attack that aims at one picture can be trained by, half of its rows on the picture's own path.

    Args:
        params: has ``picture``, ``pool``, ``steps``, ``batch``, ``lr`` and ``weight``.

    Raises:
        UsageError: one of them is out of range.
    """
    if params.picture < 0 or min(params.pool, params.steps) < 1:
        raise UsageError("picture must not be below zero, and pool and steps must be above zero")
    if params.batch < 2 or params.batch % 2:
        raise UsageError(f"the batch must be even, not {params.batch}")
    if params.lr <= 0 or params.weight <= 0:
        raise UsageError("lr and weight must be above zero")
