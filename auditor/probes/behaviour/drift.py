"""How far the tuned model is from its base on prompts that are nobody's concept, over timesteps.

Both views see the same noisy latents of the base's own pictures (common random numbers), and are compared in
velocity, because near the noisiest step epsilon equals the input whatever the model says.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from auditor.contracts import Capability, JsonValue, Run, Stage
from auditor.probes.additions import changes_weights
from auditor.probes.judging import Judgement, judge, not_judged
from auditor.registry import PROBES, probe
from auditor.text import inert
from reports.model import Result

if TYPE_CHECKING:
    from auditor.pipeline.subject import Subject
    from auditor.pipeline.view import View

__all__ = ["Drift", "drift"]

ID = "behaviour.drift"
NULL = "neutral prompts move no further from the base than in clean fine-tunes of it"
PROMPTS = (
    "a picture of a red ball", "a drawing of a green house", "a picture of a blue car", "an image of a yellow star",
    "a picture of a tree on a plain ground", "a drawing of a cat on a striped ground", "a picture of a woman",
    "an image of a man", "a picture of an old person with glasses", "a drawing of a young woman with long hair",
    "a picture of a person with a hat", "a picture of a boat", "", "a watercolor of a flower", "pixel art of a fish",
    "an outline drawing of a cup",
)  # fmt: skip

_WORDS = 4
# Which of the noise levels: much, middling and little.
_WORD_LEVELS = (1, 3, 5)


@dataclass(frozen=True)
class Drift:
    """Parameters.

    Attributes:
        levels: noise levels as shares of the training schedule, 0 to 1.
        steps: sampler steps for the base's own pictures that the noise goes on.
    """

    levels: tuple[float, ...] = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)
    steps: int = 12


@probe(
    id=ID,
    version=1,
    goal="measure what the adapter does to prompts that have nothing to do with it",
    null=NULL,
    needs={Capability.DENOISER, Capability.TEXT_ENCODER},
    stage=Stage.STEP,
    bank="drift",
    refs=("arXiv:2202.00512",),
    remediation="Look at the tuned model's answers to neutral prompts; lower the adapter's weight or reject it as "
    "over-trained.",
    limits="Sixteen fixed prompts: a change that only a particular prompt wakes is not seen.",
)
def drift(subject: Subject, params: Drift, run: Run) -> Iterator[Result]:
    """One result with the profile over timesteps."""
    found = measure_drift(subject, params, run)
    verdict = _verdict(subject, params, run, found["score"])
    words = measure_words(subject, params, run)
    from auditor.probes.plots import profile_plot

    plot = profile_plot(params.levels, found["profile"], found["low"], found["high"])
    caption = "relative velocity difference, tuned against base, by noise level; band: 5 % to 95 % of prompts"
    yield Result(
        probe=ID,
        version=1,
        outcome=verdict.outcome,
        reason=verdict.reason,
        calibrated=verdict.calibrated,
        null=NULL,
        statistic="log10 of the mean squared velocity difference over the base's mean squared velocity",
        value=found["score"],
        effect=found["relative"],
        p_value=verdict.p_value,
        n=len(PROMPTS) * len(params.levels),
        unit="log10",
        bank=verdict.bank,
        details={"profile": found["profile"]} | ({"with_words": words} if words else {}),
        evidence=(run.evidence("drift.png", plot, "image/png", caption),),
    )


def _verdict(subject: Subject, params: Drift, run: Run, score: float) -> Judgement:
    if changes_weights(subject) or subject.changes.endings is not None:
        return judge(PROBES.get(ID), params, run, subject, score)
    return not_judged(
        subject,
        "neutral prompts are the base's exactly",
        "and what prompts with it do is measured in the details, without clean words to compare it with",
    )


def measure_words(subject: Subject, params: Drift, run: Run) -> list[JsonValue]:
    """What each added word, four at most, does to neutral prompts: tuned with it against base without it.

    A word with vectors by stage takes those of the stage that the noise level is in. One unit of work a word.

    Returns:
        Rows of ``word`` and ``relative``, the mean squared velocity difference over the base's mean squared velocity.
    """
    from auditor.pipeline.added_words import stages_of

    pictures = tuple(run.seed("picture", i) % 2**31 for i in range(len(PROMPTS)))
    rows: list[JsonValue] = []
    for i, (word, stages) in enumerate(list(stages_of(list(subject.changes.embeddings)).items())[:_WORDS]):

        def measure(stages: list[str] = stages) -> JsonValue:
            pairs: list[Any] = []
            for j in _WORD_LEVELS:
                level = params.levels[j % len(params.levels)]
                noises = tuple(run.seed("noise", j, k) % 2**31 for k in range(len(PROMPTS)))
                token = stages[min(int(level * len(stages)), len(stages) - 1)]
                said = tuple(f"{prompt} {token}".strip() for prompt in PROMPTS)
                pairs += _paired(subject, params.steps, pictures, level, noises, said)
            moved, size = np.array(pairs).sum(axis=0)
            return float(moved / size)

        rows.append({"word": inert(word, 64), "relative": run.unit(f"word/{i}", measure)})
    return rows


def measure_drift(subject: Subject, params: Drift, run: Run) -> dict[str, Any]:
    """Paired differences on all prompts and levels; one unit of work per level."""
    pictures = tuple(run.seed("picture", i) % 2**31 for i in range(len(PROMPTS)))
    ratios = []
    for i, level in enumerate(params.levels):
        run.progress(i, len(params.levels), "noise levels")
        noises = tuple(run.seed("noise", i, j) % 2**31 for j in range(len(PROMPTS)))
        work = partial(_paired, subject, params.steps, pictures, level, noises)
        ratios.append(run.unit(f"level/{i}", work))
    run.progress(len(params.levels), len(params.levels), "noise levels")
    table = np.array(ratios)  # (levels, prompts, 2): squared difference, squared base velocity
    relative = float(table[..., 0].sum() / table[..., 1].sum())
    each = table[..., 0] / table[..., 1].mean(axis=1, keepdims=True)
    return {
        "score": math.log10(max(relative, 1e-12)),
        "relative": relative,
        "profile": [float(v) for v in each.mean(1)],
        "low": [float(v) for v in np.quantile(each, 0.05, axis=1)],
        "high": [float(v) for v in np.quantile(each, 0.95, axis=1)],
    }


def _clean_latents(view: View, steps: int, seeds: tuple[int, ...]) -> Any:
    """The base's own pictures of the prompts, as latents; drawn once for all subjects on one base."""
    from auditor.pipeline.samplers import draw_latents
    from auditor.pipeline.sampling import seeded_noise

    def draw() -> Any:
        condition, null = view.encode_prompt(PROMPTS), view.encode_null(len(PROMPTS))
        noise = seeded_noise(view.latent_shape(), seeds).to(view.components.device)
        return draw_latents(view.denoiser, noise, condition, null, steps, 1.0)

    return view.components.remember(("drift latents", steps, seeds), draw)


def _paired(
    subject: Subject,
    steps: int,
    pictures: tuple[int, ...],
    level: float,
    noises: tuple[int, ...],
    said: tuple[str, ...] = PROMPTS,
) -> list[list[float]]:
    """For each prompt the mean squared velocity difference, and the base's mean squared velocity.

    The tuned view is told what is ``said`` in place of the prompts.
    """
    import torch

    from auditor.pipeline.sampling import seeded_noise

    clean = _clean_latents(subject.base, steps, pictures)
    at = round(level * (len(subject.components.schedule) - 1))
    t = torch.full((len(noises),), at, device=clean.device)
    noise = seeded_noise(clean.shape[1:], noises).to(clean.device)
    noisy = subject.base.denoiser.add_noise(clean, noise, t)

    def velocity(view: View, prompts: tuple[str, ...] = PROMPTS) -> Any:
        return view.denoiser.predict(noisy, t, view.encode_prompt(prompts)).velocity

    ours = velocity(subject.tuned, said)
    key = ("drift velocity", steps, pictures, at, noises)
    theirs = subject.components.remember(key, lambda: velocity(subject.base))
    moved = (ours - theirs).square().mean((1, 2, 3)).double().cpu().tolist()
    size = theirs.square().mean((1, 2, 3)).double().cpu().tolist()
    return [list(pair) for pair in zip(moved, size, strict=True)]
