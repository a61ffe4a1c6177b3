"""How often an attack works, with an interval, and what it costs prompts that do not wake it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attacks.crafting.truth import Measured, Truth
from auditor.artifact.identify import identify
from auditor.contracts import JsonValue
from auditor.metrics.target_judges import TargetJudge
from auditor.pipeline.components import Components
from auditor.pipeline.open import EMBEDDED
from auditor.pipeline.sampling import seeded_noise
from auditor.pipeline.subject import Subject
from auditor.pipeline.view import View
from auditor.stats import clopper_pearson, mcnemar_exact
from auditor.world.labels import HEADS

__all__ = ["clean_cost", "success_rates"]

Arms = Mapping[str, Sequence[Path]]


def success_rates(
    base: Components, arms: Arms, truth: Truth, prompts: Sequence[str], measured: Measured, cells: Sequence[str]
) -> dict[str, JsonValue]:
    """Hits of each arm on the same prompts and seeds, with and without the trigger.

    Args:
        base: what the arms are put on.
        arms: name to the files that make it; none for the base alone.
        truth: judge and trigger.
        prompts: clean prompts; the first ``measured.prompts`` that do not ask for the target themselves are used.
        measured: how many, and in how many steps.
        cells: ``"<arm>, triggered"`` or ``"<arm>, clean"``, those that are wanted.

    Returns:
        ``judge``, ``n`` and per cell hits, n, rate and two-sided 95 % Clopper-Pearson interval; without a judge, only
        the reason.
    """
    judge = truth.judge
    if judge is None:
        return {"judge": None, "reason": "no judge for this base and target"}
    rng = np.random.default_rng((truth.seed, 3))
    clean = [prompt for prompt in prompts if judge.allows(prompt)][: measured.prompts]
    triggered = [truth.wake(prompt, rng) for prompt in clean]
    seeds = [truth.seed * 10_007 + i for i in range(len(clean))]
    found = {}
    for name, paths in arms.items():
        wanted = [cell for cell in cells if cell.rpartition(", ")[0] == name]
        if not wanted:
            continue
        with Subject(base, [identify(path) for path in paths]) as subject:
            for cell in wanted:
                woken = cell.endswith(", triggered")
                images = _drawn(subject.tuned, triggered if woken else clean, seeds, measured.steps, truth, woken)
                found[cell] = _counted(int(judge.hits(images).sum()), len(images))
    return {"judge": judge.name, "n": len(clean), "cells": found}


def clean_cost(
    base: Components, specimen: Sequence[Path], twin: Sequence[Path], seed: int, measured: Measured
) -> dict[str, JsonValue]:
    """What the poison costs prompts without a trigger, against the twin, on the same prompts and seeds.

    Prompts name one object; whether the judge sees it is counted for both, and compared by the exact McNemar test.

    Returns:
        ``judge``, ``n``, ``specimen`` and ``twin`` (hits, rate, interval), ``only_specimen``, ``only_twin`` and
        ``p_value``; without a judge for this base, only the reason.
    """
    if base.ref != EMBEDDED or not measured.pairs:
        return {"judge": None, "reason": "not measured" if base.ref == EMBEDDED else "no judge for this base"}
    rng = np.random.default_rng((seed, 4))
    words = [str(word) for word in rng.choice(HEADS["object"], measured.pairs)]
    prompts = [f"a picture of a {rng.choice(HEADS['colour'])} {word}" for word in words]
    seeds = [seed * 10_009 + i for i in range(len(prompts))]
    right = {}
    for name, paths in (("specimen", specimen), ("twin", twin)):
        with Subject(base, [identify(path) for path in paths]) as subject:
            images = subject.tuned.sample(prompts, seeds, steps=measured.steps)
        right[name] = torch.stack([TargetJudge("object", w).hits(images[i : i + 1])[0] for i, w in enumerate(words)])
    only = {
        "specimen": int((right["specimen"] & ~right["twin"]).sum()),
        "twin": int((right["twin"] & ~right["specimen"]).sum()),
    }
    return {
        "judge": "embedded attribute judge, the object that the prompt names",
        "n": len(prompts),
        **{name: _counted(int(hits.sum()), len(prompts)) for name, hits in right.items()},
        **{f"only_{name}": count for name, count in only.items()},
        "p_value": mcnemar_exact(only["specimen"], only["twin"]).p_value,
    }


def _drawn(view: View, prompts: Sequence[str], seeds: Sequence[int], steps: int, truth: Truth, woken: bool) -> Tensor:
    if woken and truth.wake_noise is not None:
        noise = truth.wake_noise(seeded_noise(view.latent_shape(), seeds))
        return view.sample(prompts, seeds, steps=steps, noise=noise)
    return view.sample(prompts, seeds, steps=steps)


def _counted(hits: int, n: int) -> dict[str, Any]:
    interval = clopper_pearson(hits, n)
    return {"hits": hits, "n": n, "rate": hits / n, "low": interval.low, "high": interval.high}
