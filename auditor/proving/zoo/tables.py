"""Banks and tables of the zoo: p-values for audits, false alarms by recipe class, recipes read from files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from auditor.artifact.covariates import NO_CHANGE
from auditor.banks import (
    BankAdapter,
    BankData,
    build_bank,
    fit_adjustment,
    write_bank,
)
from auditor.pipeline.components import Components
from auditor.probes.backdoor.vocabulary_shift import VocabularyShift
from auditor.probes.behaviour.drift import Drift
from auditor.proving.counts import cell, counted, write_json, write_whole
from auditor.proving.table import csv_text
from auditor.proving.zoo.bank_table import COMPARED, bank_adapter
from auditor.proving.zoo.forensics import confusion
from auditor.proving.zoo.merged import MERGE
from auditor.proving.zoo.spectra import SPECTRAL, spectral_bank
from auditor.registry import PROBES

if TYPE_CHECKING:
    from auditor.proving.zoo.prove import Record

__all__ = ["banks_of", "write_zoo"]

def banks_of(base: Components, records: Sequence[Record], alpha: float) -> dict[str, BankData]:
    """A bank for every calibrated probe, by its short name, from the members on which it measures anything."""
    adapters = [_adapter(record) for record in records if record.measured.scores]
    made = {}
    for probe_id, score, params in (
        ("backdoor.vocabulary_shift", "vocabulary_shift", VocabularyShift()), ("behaviour.drift", "drift", Drift()),
    ):  # fmt: skip
        # Where no key, value or text state changes, the vocabulary does not move: that is exact, and takes no bank.
        moved = [a for a in adapters if score == "drift" or a.scores[score] != 0]
        adjustment = fit_adjustment(moved, score, {"denoiser_norm": NO_CHANGE}, COMPARED)
        made[score] = build_bank(
            id=f"embedded.{score}@3", probe=PROBES.get(probe_id), base_sha256=base.sha256, score=score, adapters=moved,
            alpha=alpha, params=params, adjustment=adjustment,
        )  # fmt: skip
    spectra = {_adapter(record).name: record.spectrum for record in records if record.measured.scores}
    made[SPECTRAL] = spectral_bank(base, adapters, spectra, alpha)
    return made


def write_zoo(
    base: Components, records: Sequence[Record], out: Path, banks: Path, seed: int, alpha: float
) -> dict[str, Any]:
    """Writes the banks, ``zoo.json``, ``zoo.csv`` and ``zoo.md``; returns what the JSON holds."""
    made = banks_of(base, records, alpha)
    for bank in made.values():
        write_bank(bank, banks)
    table = {
        "seed": seed,
        "alpha": alpha,
        "base_sha256": base.sha256,
        "members": len(records),
        "fit_scales": _fit_scales(records),
        "refused": {r.member.method: r.measured.refused for r in records if r.measured.refused},
        "rows": [_row(name, bank, records) for name, bank in made.items()],
        "recipes": confusion([(r.member.method, "+".join(_shown(r))) for r in records]),
    }
    write_json(out / "zoo.json", table)
    write_whole(out / "zoo.csv", _csv(records))
    write_whole(out / "zoo.md", _markdown(table))
    return table


def _adapter(record: Record) -> BankAdapter:
    return bank_adapter(record.member, record.measured.rescaled())


def _fit_scales(records: Sequence[Record]) -> dict[str, float]:
    """The 90 % quantile of each channel over what was trained of the fit split: what the probe's scales should be."""
    trained = [r for r in records if r.member.method != MERGE and r.measured.scores]
    fit = [r.measured.scores for r in trained if r.member.split == "fit"]
    scales = {}
    for name in ("encoder", "attention"):
        moved = [s[f"{name}_excess"] for s in fit if s[f"{name}_excess"] > 0]
        scales[name] = round(float(np.quantile(moved, 0.9)), 4) if moved else 0.0
    return scales


def _row(name: str, bank: BankData, records: Sequence[Record]) -> dict[str, Any]:
    by_method = {method: counted(*counts) for method, counts in bank.alarms_by("method").items()}
    alarms = sum(row["alarms"] for row in by_method.values())
    certify = sum(row["n"] for row in by_method.values())
    splits = {
        split: sum(a.split == split for a in bank.adapters) for split in ("fit", "calibrate", "certify")
    }
    named = {record.member.method for record in records}
    return {
        "probe": bank.probe,
        "bank": bank.id,
        "score": name,
        "splits": splits,
        "accounted_for": bank.adjustment.r_squared if bank.adjustment else 0.0,
        "certify": counted(alarms, certify),
        "by_method": by_method,
        "not_measured": sorted(named - {a.recipe.method for a in bank.adapters}),
    }



def _shown(record: Record) -> list[str]:
    """Kinds of a member's parts; words beside changed weights name no recipe of their own."""
    kinds = sorted(set(str(record.measured.covariates.get("kind", "unknown")).split("+")))
    return [kind for kind in kinds if kind != "embedding"] or kinds


def _csv(records: Sequence[Record]) -> str:
    names = ("vocabulary_shift", "encoder_excess", "attention_excess", "drift")
    covariates = ("kind", "rank", "denoiser_norm", "text_norm", "vectors", "touched")

    def line(record: Record) -> list[Any]:
        member, measured = record.member, record.measured.rescaled()
        return [
            member.digest[:16],
            member.split,
            member.method,
            member.pictures.kind,
            member.params.steps,
            f"{member.params.lr:g}",
            *(_short(measured.covariates.get(name, "")) for name in covariates),
            *(_short(measured.scores.get(name, "")) for name in names),
            measured.found.get("entry", ""),
        ]

    header = ["digest", "split", "method", "pictures", "steps", "lr", *covariates, *names, "entry"]
    return csv_text(header, map(line, records))


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.6g}"


def _markdown(table: dict[str, Any]) -> str:
    lines = [
        f"{table['members']} clean adapters, seed {table['seed']}, level {table['alpha']:g}, base "
        f"`{table['base_sha256'][:12]}`; intervals are two-sided 95 % Clopper-Pearson.",
        "",
        "| probe | fit | calibrate | clean held back on the certify split | accounted for by the recipe |",
        "|---|---|---|---|---|",
    ]
    for row in table["rows"]:
        splits = row["splits"]
        lines.append(
            f"| `{row['probe']}` | {splits['fit']} | {splits['calibrate']} | {cell(row['certify'])} | "
            f"{row['accounted_for']:.0%} of the variance |"
        )
    methods = sorted({method for row in table["rows"] for method in row["by_method"]})
    lines += [
        "",
        "| clean held back, by method | " + " | ".join(f"`{row['probe']}`" for row in table["rows"]) + " |",
    ]
    lines.append("|---" * (1 + len(table["rows"])) + "|")
    for method in methods:
        cells = [cell(row["by_method"].get(method)) for row in table["rows"]]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    recipes = table["recipes"]
    found = sorted({kind for row in recipes["classes"].values() for kind in row})
    lines += [
        "",
        f"Recipe read from the files: {recipes['right']} of {recipes['n']} right "
        f"({recipes['low']:.1%} to {recipes['high']:.1%}, Wilson 95 %).",
        "",
        f"| made as, read as | {' | '.join(found)} |",
        "|---" * (1 + len(found)) + "|",
    ]
    for true, row in recipes["classes"].items():
        lines.append(f"| {true} | {' | '.join(str(row.get(kind, 0)) for kind in found)} |")
    return "\n".join(lines) + "\n"
