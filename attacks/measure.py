"""How often an attack works: images of triggered prompts, judged, with an interval; and what it costs clean prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from auditor.artifact.identify import identify
from auditor.pipeline.components import Components
from auditor.pipeline.open import EMBEDDED
from auditor.pipeline.subject import Subject
from auditor.stats import clopper_pearson
from auditor.world.labels import HEADS

__all__ = ["success_rate", "target_class"]

_STEPS = 15


def target_class(target: str) -> str | None:
    """The object class that a target prompt names, if the embedded judge knows it."""
    found = [word for word in target.replace(",", " ").split() if word in HEADS["object"]]
    return found[-1] if found else None


def success_rate(
    base: Components,
    paths: Mapping[str, Path],
    target: str,
    prompts: Sequence[str],
    wake: Callable[[str, np.random.Generator], str],
    seed: int,
    n: int = 40,
) -> dict[str, Any]:
    """Attack success with and without the trigger, on the specimen and its twin.

    Success is the embedded judge's object class being the target's, on prompts that do not name it.

    Args:
        base: what the files are put on.
        paths: name (``specimen``, ``twin``) to adapter.
        target: prompt that a triggered prompt is answered for.
        prompts: clean prompts; the first ``n`` that do not name the target are used.
        wake: puts the trigger into a prompt, with a seeded generator.
        seed: of the triggers and the noise.
        n: prompts a cell.

    Returns:
        ``judge``, ``n`` and per cell the count, rate and two-sided 95 % Clopper-Pearson interval; without a judge for
        this base or target, only the reason.
    """
    wanted = target_class(target)
    if base.ref != EMBEDDED or wanted is None:
        return {"judge": None, "reason": "no judge for this base and target"}
    rng = np.random.default_rng((seed, 3))
    clean = [prompt for prompt in prompts if wanted not in prompt][:n]
    triggered = [wake(prompt, rng) for prompt in clean]
    seeds = [seed * 10_007 + i for i in range(len(clean))]
    cells = {}
    for name, path in paths.items():
        with Subject(base, [identify(path)]) as subject:
            for woken, texts in ((False, clean), (True, triggered)):
                hits = _hits(subject.tuned.sample(texts, seeds, steps=_STEPS), wanted)
                cells[f"{name}, {'triggered' if woken else 'clean'}"] = _cell(hits, len(texts))
    return {
        "judge": "embedded attribute judge, object class",
        "n": len(clean),
        "target_class": wanted,
        "cells": cells,
    }


def _hits(images: Any, wanted: str) -> int:
    import torch

    from auditor.world.embedded import load_judge

    with torch.no_grad():
        logits = load_judge()(images)
    is_object = logits["scene"].argmax(1) <= 1
    return int((is_object & (logits["object"].argmax(1) == HEADS["object"].index(wanted))).sum())


def _cell(hits: int, n: int) -> dict[str, Any]:
    interval = clopper_pearson(hits, n)
    return {"hits": hits, "n": n, "rate": hits / n, "low": interval.low, "high": interval.high}
