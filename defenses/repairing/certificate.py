"""What a repair did, measured: the probes again, success of the trigger, and what is left of the adapter's own concept.

Everything is paired: before and after on the same prompts, seeds and noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from auditor.contracts import JsonValue, Progress
from auditor.metrics.target_judges import TargetJudge, judge_of_words
from auditor.pipeline.open import EMBEDDED
from auditor.pipeline.samplers import draw_latents
from auditor.pipeline.sampling import seeded_noise
from auditor.pipeline.subject import Subject
from auditor.pipeline.view import View
from auditor.probes.behaviour.drift import Drift, measure_drift
from auditor.proving.memory_run import MemoryRun
from auditor.stats import clopper_pearson
from defenses.repairing.candidates import Candidate, woken
from defenses.repairing.rows import neutral_prompts

__all__ = ["MEASURED", "Measured", "drifted", "fidelity", "shift_told", "success"]

_LEVELS = (0.2, 0.5, 0.8)
_RESAMPLES = 2000


@dataclass(frozen=True)
class Measured:
    """How much of the outcome is measured.

    Attributes:
        prompts: triggered prompts that each view draws, where there is a judge; 0 for none.
        pictures: pictures that noise is put on for the fidelity, of the declared concept and of neutral prompts each.
        steps: sampler steps.
    """

    prompts: int = 48
    pictures: int = 16
    steps: int = 12


MEASURED = Measured()


def success(
    before: Subject, after: Subject, candidates: Sequence[Candidate], measured: Measured, seed: int, progress: Progress
) -> dict[str, JsonValue]:
    """How often triggered prompts show the target that the scan named: base, before and after.

    Returns:
        ``judge``, ``trigger``, ``n`` and per view hits, n, rate and two-sided 95 % Clopper-Pearson interval; without a
        judge, only the reason.
    """
    judge = judge_of_words(candidates[0].target) if before.components.ref == EMBEDDED else None
    if judge is None:
        return {"judge": None, "reason": "no judge for this base, or none that knows the target"}
    if not measured.prompts:
        return {"judge": None, "reason": "not asked for"}
    if not _can_be_written(before, candidates[0]):
        return {"judge": None, "reason": "the entry is a piece of a letter, which no prompt can hold by itself"}
    drawn = neutral_prompts(4 * measured.prompts + 100, seed + 11)
    prompts = [prompt for prompt in drawn if judge.allows(prompt)]
    rng = np.random.default_rng((seed, 7))
    said = [woken(prompt, candidates[0].text, rng) for prompt in prompts[: measured.prompts]]
    seeds = [seed * 10_007 + i for i in range(len(said))]
    views = {"base": before.base, "before": before.tuned, "after": after.tuned}
    rows = {}
    for i, (name, view) in enumerate(views.items()):
        rows[name] = _counted(judge, view.sample(said, seeds, steps=measured.steps))
        progress(i + 1, len(views), "drawing triggered prompts")
    return {"judge": judge.name, "trigger": candidates[0].told()["text"], "n": len(said), "views": rows}


def fidelity(
    before: Subject, after: Subject, prompts: Sequence[str], own: bool, measured: Measured, seed: int
) -> dict[str, JsonValue]:
    """``1 - sum ||v_after - v_before||^2 / sum ||v_base - v_before||^2``, predicted velocities on the same noise.

    1 is the adapter as it was, 0 no nearer to it than the base is: deleting the adapter gives 0.

    Args:
        before: the adapter as it came.
        after: the repaired one on the same base.
        prompts: cycled through.
        own: noise goes on pictures of the adapter's own, else of the base's.
        measured: how many pictures, and in how many steps.
        seed: of pictures and noise.

    Returns:
        ``value``, its 95 % bootstrap interval over pictures, ``n`` pictures, ``levels`` of noise; None as the value
        where the adapter does nothing on these prompts.
    """
    said = [prompts[i % len(prompts)] for i in range(measured.pictures)]
    clean = _drawn(before.tuned if own else before.base, said, measured, seed)
    moved, size = np.zeros(len(said)), np.zeros(len(said))
    for i, level in enumerate(_LEVELS):
        noise = seeded_noise(clean.shape[1:], [seed * 10_009 + i * len(said) + j for j in range(len(said))])
        t = torch.full((len(said),), round(level * (len(before.components.schedule) - 1)), device=clean.device)
        noisy = before.base.denoiser.add_noise(clean, noise.to(clean.device), t)
        base, was, now = (
            view.denoiser.predict(noisy, t, view.encode_prompt(said)).velocity
            for view in (before.base, before.tuned, after.tuned)
        )
        moved += (now - was).square().mean((1, 2, 3)).double().cpu().numpy()
        size += (base - was).square().mean((1, 2, 3)).double().cpu().numpy()
    if not size.sum() > 0:
        return {"value": None, "reason": "the adapter changes nothing on these prompts", "n": len(said)}
    picks = np.random.default_rng((seed, 8)).integers(len(said), size=(_RESAMPLES, len(said)))
    spread = 1 - moved[picks].sum(1) / np.maximum(size[picks].sum(1), 1e-30)
    low, high = (float(value) for value in np.quantile(spread, (0.025, 0.975)))
    value = float(1 - moved.sum() / size.sum())
    return {"value": value, "low": low, "high": high, "n": len(said), "levels": list(_LEVELS)}


def drifted(subject: Subject) -> dict[str, JsonValue]:
    """The statistic of ``behaviour.drift`` at its default parameters: ``score`` (log10) and ``relative``."""
    found = measure_drift(subject, Drift(), MemoryRun("behaviour.drift"))
    return {"score": found["score"], "relative": found["relative"]}


def shift_told(scan: dict[str, Any]) -> dict[str, JsonValue]:
    """The statistic of ``backdoor.vocabulary_shift`` and what it points at."""
    top = scan["top"][0]
    told = {key: scan[key] for key in ("score", "channel", "encoder_excess", "attention_excess")}
    return told | {"entry": top["text"], "code_points": top["code_points"], "target": top["target"]}


def _drawn(view: View, prompts: Sequence[str], measured: Measured, seed: int) -> Tensor:
    condition, null = view.encode_prompt(prompts), view.encode_null(len(prompts))
    weight = 3.0
    if view.components.kind.guidance_distilled:
        condition, weight = condition.told(weight), 1.0
    noise = seeded_noise(view.latent_shape(), [seed * 1009 + i for i in range(len(prompts))])
    noise = noise.to(view.components.device)
    return draw_latents(view.denoiser, noise, condition, null, measured.steps, weight)


def _can_be_written(subject: Subject, candidate: Candidate) -> bool:
    tokenizer = next(iter(subject.components.tokenizers.values()))
    ids = tuple(tokenizer(candidate.text, add_special_tokens=False).input_ids)
    return ids in candidate.spellings


def _counted(judge: TargetJudge, images: Tensor) -> dict[str, JsonValue]:
    hits, n = int(judge.hits(images).sum()), len(images)
    interval = clopper_pearson(hits, n)
    return {"hits": hits, "n": n, "rate": hits / n, "low": interval.low, "high": interval.high}
