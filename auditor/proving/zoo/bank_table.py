"""Members of the zoo as a bank has them, and what a bank says of itself: splits, false alarms, scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from auditor.banks import SPLITS, BankAdapter, BankData, Recipe
from auditor.proving.counts import cell, counted
from auditor.proving.zoo.members import Member
from auditor.proving.zoo.score import Measured

__all__ = ["COMPARED", "bank_adapter", "bank_markdown", "bank_table"]

COMPARED = ("kind", "touched")
"""Named covariates that clean scores are compared by."""


def bank_adapter(member: Member, measured: Measured) -> BankAdapter:
    """A member with its split, recipe and scores.

    The rank that the file shows is what a subject's will be compared with, not the one that was asked for.
    """
    recipe = member.recipe()
    extra = {**recipe["extra"], **{k: v for k, v in measured.covariates.items() if k != "rank"}}
    rank = round(float(measured.covariates["rank"]))
    return BankAdapter(
        name=f"clean-{member.digest[:16]}",
        split=member.split,
        recipe=Recipe(**{**recipe, "rank": rank, "extra": extra}),
        scores=dict(measured.scores),
    )


def bank_table(bank: BankData, seed: int, scores: Sequence[str]) -> dict[str, Any]:
    """The figures, JSON-ready.

    Args:
        bank: with its realised false-positive rate.
        seed: of what it was made from.
        scores: names of the scores that quantiles (5 %, 50 %, 95 %, the largest) are given of.
    """
    fpr = bank.realised_fpr
    return {
        "seed": seed,
        "alpha": bank.alpha,
        "base_sha256": bank.base_sha256,
        "splits": {split: sum(a.split == split for a in bank.adapters) for split in SPLITS},
        "accounted_for": bank.adjustment.r_squared if bank.adjustment else 0.0,
        "certify": counted(fpr.alarms, fpr.n) if fpr else None,
        "by_method": {method: counted(*counts) for method, counts in bank.alarms_by("method").items()},
        "scores": {
            name: [float(v) for v in np.quantile(bank.scores(name), (0.05, 0.5, 0.95, 1.0))] for name in scores
        },
    }


def bank_markdown(table: dict[str, Any], what: str) -> str:
    """The same as Markdown; ``what`` says what was scored, in the plural."""
    splits = table["splits"]
    lines = [
        f"Seed {table['seed']}, base `{table['base_sha256'][:12]}`, level {table['alpha']:g}; {sum(splits.values())} "
        f"{what} ({splits['fit']} fit, {splits['calibrate']} calibrate, {splits['certify']} certify); "
        "intervals are two-sided 95 % Clopper-Pearson.",
        "",
        "| method | held back |",
        "|---|---|",
        f"| all | {cell(table['certify'])} |",
        *(f"| {method} | {cell(row)} |" for method, row in table["by_method"].items()),
    ]
    return "\n".join(lines) + "\n"
