"""Whether recipes alone tell specimens from what is clean: if they do, a detector may have learned no more than that.

A logistic regression on rank, steps, learning rate, whether the text encoder is trained, and the size of the change of
each component, judged on pairs that it was not fitted on. The recipe is the host's, which is what an adapter's
metadata would say; the sizes are measured from the files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auditor.artifact.covariates import NO_CHANGE
from auditor.artifact.together import identify_parts
from auditor.pipeline.components import Components
from auditor.pipeline.subject import Subject
from auditor.proving.attacks.specimens import Record
from auditor.proving.counts import write_json
from auditor.proving.zoo.build import home_of
from auditor.proving.zoo.members import draw_member
from auditor.stats import auroc_interval

__all__ = ["clean_rows", "features", "judge_recipes"]

FOLDS = 5
FEWEST = 2 * FOLDS
"""Specimens from which on a classifier is fitted."""
CARRIER = "dreambooth-lora"
"""The method of the clean members that hosts are drawn like."""

Rows = NDArray[np.float64]


def features(recipe: dict[str, float], covariates: dict[str, float | str]) -> list[float]:
    """Log rank, log steps, log lr, text encoder, and log size of the change of denoiser and text encoder."""
    sizes = [float(covariates[name]) for name in ("denoiser_norm", "text_norm")]
    logs = [math.log(max(recipe[name], 1e-12)) for name in ("rank", "steps", "lr")]
    # A component that does not change has no size; that it does not is told beside it.
    return [*logs, recipe["text_encoder"], *(0.0 if size == NO_CHANGE else size for size in sizes)]


def judge_recipes(records: Sequence[Record], clean: Rows) -> dict[str, Any]:
    """AUROC with interval of the classifier against the twins and against clean members.

    Args:
        records: specimens and twins; those that no adapter carries are left out.
        clean: features of clean members (N, 6); none where the zoo is not there.

    Returns:
        ``twins`` and ``zoo``, each with ``value``, ``low``, ``high``, ``specimens`` and ``clean``, or None where there
        are too few.
    """
    carried = [r for r in records if r.arms and r.recipe]
    arms = {
        name: np.array([features(r.recipe, r.arms[name].covariates) for r in carried]).reshape(-1, 6)
        for name in ("specimen", "twin")
    }
    pairs = np.arange(len(carried))
    own = len(carried) + np.arange(len(clean))
    return {
        "twins": _area(arms["specimen"], arms["twin"], pairs, pairs),
        "zoo": _area(arms["specimen"], clean, pairs, own),
    }


def clean_rows(base: Components, zoo: Path, out: Path, members: int = 800, seed: int = 0) -> Rows:
    """Features (N, 6) of the zoo's low-rank members that are there; what was read of them is kept in ``out``."""
    cache = out / f"clean-{base.sha256[:8]}.json"
    known: dict[str, dict[str, float | str]] = json.loads(cache.read_text("utf-8")) if cache.exists() else {}
    rows = []
    for member in (draw_member(i, seed) for i in range(members)):
        home = home_of(member, base, zoo)
        if member.method != CARRIER or not home.exists():
            continue
        if member.digest not in known:
            with Subject(base, identify_parts(home)) as subject:
                known[member.digest] = dict(subject.covariates)
        params = member.params
        recipe = {
            "rank": float(params.rank), "steps": float(params.steps), "lr": params.lr,
            "text_encoder": float(params.train_text_encoder),
        }  # fmt: skip
        rows.append(features(recipe, known[member.digest]))
    if known:
        write_json(cache, known)
    return np.array(rows).reshape(-1, 6)


def _area(planted: Rows, clean: Rows, pairs: NDArray[np.int64], others: NDArray[np.int64]) -> dict[str, Any] | None:
    if min(len(planted), len(clean)) < FEWEST:
        return None
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows = np.concatenate([planted, clean])
    truth = np.repeat([1, 0], [len(planted), len(clean)])
    scores = np.empty(len(rows))
    groups = np.concatenate([pairs, others])
    folds = np.random.default_rng(0).permutation(groups.max() + 1)[groups] % FOLDS
    for fold in range(FOLDS):
        fitted, judged = folds != fold, folds == fold
        model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
        scores[judged] = model.fit(rows[fitted], truth[fitted]).decision_function(rows[judged])
    area = auroc_interval(scores[truth == 0], scores[truth == 1])
    return {
        "value": area.estimate, "low": area.low, "high": area.high, "specimens": len(planted), "clean": len(clean),
    }  # fmt: skip
