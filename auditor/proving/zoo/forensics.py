"""What ``static.recipe`` says of members whose recipe is known: a confusion matrix over classes that files can show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from auditor.stats import wilson

__all__ = ["EXPECTED", "confusion"]

EXPECTED: Mapping[str, str] = {
    "dreambooth-lora": "low_rank",
    "orthogonal-adaptation": "frozen_input",
    "diffusekrona": "kronecker",
    "sigstyle": "multiplicative",
    "textual-inversion": "embedding",
    "cross-initialization": "embedding",
    "prospect": "per_step_embedding",
    "sefi": "per_step_embedding",
    "hifi": "per_step_embedding",
    "classdiffusion": "full",
    "dreambooth": "full",
    "styleforge": "full",
    "sine": "full",
    "resadapter": "low_rank+norms",
    "merge": "merged",
}
"""Methods whose files are alike are one class: a full fine-tune is one whatever it was trained for."""


def confusion(read: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Counts and share right from pairs of (method, class read).

    Returns:
        ``classes`` (true class to class read to count), ``methods`` (method to right and n), ``right``, ``n`` and the
        Wilson interval of the share at 95 %.
    """
    classes: dict[str, dict[str, int]] = {}
    methods: dict[str, dict[str, int]] = {}
    for method, found in read:
        row = classes.setdefault(EXPECTED[method], {})
        row[found] = row.get(found, 0) + 1
        tally = methods.setdefault(method, {"right": 0, "n": 0})
        tally["right"] += found == EXPECTED[method]
        tally["n"] += 1
    right = sum(tally["right"] for tally in methods.values())
    share = wilson(right, len(read))
    return {
        "classes": {true: dict(sorted(row.items())) for true, row in sorted(classes.items())},
        "methods": dict(sorted(methods.items())),
        "right": right,
        "n": len(read),
        "low": share.low,
        "high": share.high,
    }
