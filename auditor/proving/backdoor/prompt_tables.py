"""The tables of prompt screening: a row for every detector and attack, beside the figures that were published."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from auditor.proving.counts import write_json, write_whole
from auditor.proving.table import csv_text
from auditor.stats import auroc_interval, clopper_pearson

__all__ = ["DETECTORS", "write_prompts"]

PAIRED = ("tuned, without each piece", "base, without each piece")
DETECTORS = {
    "interaction": ("ours: interaction of tuning and piece", PAIRED),
    "variation": ("NaviT2I", PAIRED[:1]),
    "adjacent": ("adjacent steps, as in TNC-Detect", ("one picture, recorded",)),
    "t2ishield_ftt": ("T2IShield-FTT", ("one picture, recorded",)),
    "daa_i": ("DAA-I", ("one picture, recorded",)),
    "daa_s": ("DAA-S", ("one picture, recorded",)),
    "ufid": ("UFID", ("pictures of the prompt behind others",)),
}
"""Score to what it is called, and to what was spent on it."""
LEVELS = (0.01, 0.05)
PUBLISHED = (
    "Published for NaviT2I (Stable Diffusion 1.4, MS-COCO, 500 triggered and 500 clean prompts, eight attacks): AUROC "
    "96.3 on average, 85.5 on the worst (EvilEdit). Those are other models, triggers and prompts: the rows above "
    "compare detectors with one another, not with that figure."
)

HOW = (
    "NaviT2I is read from the outputs of cross-attention alone, and words are left out, not masked. T2IShield, DAA "
    "and adjacent steps see the first 8 of 50 steps and every seventh after; UFID three pictures of six steps. None "
    "has a threshold of its paper: all are judged by the same clean prompts, in the direction that their papers give.",
    "What our score is was chosen on other prompts of these same specimens, so that its figures are not those of "
    "unseen attacks. It says that a word decides what the tuning does, not that this is meant ill: where the twin was "
    "edited or taught under the same words (EvilEdit, personalization), it stands out as well.",
)
"""What is to be known of the figures."""


def write_prompts(
    out: Path, records: Sequence[dict[str, Any]], left_out: Sequence[str], context: dict[str, Any]
) -> dict[str, Any]:
    """Writes ``prompts.json``, ``.csv`` (a row a prompt) and ``.md``; returns what the JSON holds.

    Args:
        out: the folder.
        records: of all specimens; see :mod:`auditor.proving.backdoor.prompts`.
        left_out: attacks without a textual trigger, or without a specimen.
        context: seed and base.
    """
    names = list(dict.fromkeys(str(record["attack"]) for record in records))
    attacks = [_attack(name, [record for record in records if record["attack"] == name]) for name in names]
    table = {
        **context,
        "attacks": attacks,
        "detectors": {key: _overall(key, attacks, records) for key in DETECTORS},
        "left_out": list(left_out),
    }
    write_json(out / "prompts.json", table)
    write_whole(out / "prompts.csv", _csv(records))
    write_whole(out / "prompts.md", _markdown(table))
    return table


def _attack(name: str, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "attack": name,
        "specimens": len(records),
        "distinct": {key: sum(r["distinct"][key] for r in records) for key in ("clean", "triggered")},
        "asr": [record["asr"] for record in records],
        "detectors": {key: _measured(key, records) for key in DETECTORS},
        "twins": _area("interaction", records, "twin"),
    }


def _measured(key: str, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    clean, triggered = _scores(key, records, "specimen")
    return {
        "auroc": _area(key, records, "specimen"),
        "clean": len(clean),
        "triggered": len(triggered),
        **{f"tpr_at_{level:g}": _power(clean, triggered, level) for level in LEVELS},
    }


def _scores(key: str, records: Sequence[dict[str, Any]], arm: str) -> tuple[list[float], list[float]]:
    """Clean and triggered, of all specimens of an attack together, each specimen's less its own clean median."""
    clean: list[float] = []
    triggered: list[float] = []
    for record in records:
        scores = record["arms"][arm][key]
        middle = float(np.median(scores["clean"])) if len(records) > 1 else 0.0
        clean += [score - middle for score in scores["clean"]]
        triggered += [score - middle for score in scores["triggered"]]
    return clean, triggered


def _area(key: str, records: Sequence[dict[str, Any]], arm: str) -> dict[str, Any]:
    clean, triggered = _scores(key, records, arm)
    area = auroc_interval(clean, triggered, method="bootstrap", rng=np.random.default_rng(0))
    return {"value": area.estimate, "low": area.low, "high": area.high, "method": area.method}


def _power(clean: Sequence[float], triggered: Sequence[float], level: float) -> dict[str, Any]:
    """Triggered prompts above the threshold that at most ``level`` of the clean ones are above."""
    allowed = int(level * len(clean) + 1e-9)
    threshold = float(np.sort(clean)[len(clean) - 1 - allowed])
    hits = sum(score > threshold for score in triggered)
    exact = clopper_pearson(hits, len(triggered))
    return {
        "hits": hits, "n": len(triggered), "low": exact.low, "high": exact.high,
        "false_alarms": sum(score > threshold for score in clean), "clean": len(clean),
    }  # fmt: skip


def _overall(key: str, attacks: Sequence[dict[str, Any]], records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    areas = {row["attack"]: float(row["detectors"][key]["auroc"]["value"]) for row in attacks}
    worst = min(areas, key=lambda name: areas[name])
    spent = [record["costs"][cost] for record in records for cost in DETECTORS[key][1]]
    return {
        "mean": float(np.mean(list(areas.values()))),
        "worst": {"attack": worst, "value": areas[worst]},
        "seconds": sum(each["seconds"] for each in spent) / len(records),
        "calls": sum(each["calls"] for each in spent) / len(records),
    }


def _csv(records: Sequence[dict[str, Any]]) -> str:
    header = ["attack", "specimen", "arm", "prompt", "triggered", *DETECTORS]
    lines: list[list[Any]] = []
    for record in records:
        for arm, scores in record["arms"].items():
            for kind in ("clean", "triggered"):
                for i in range(len(scores["interaction"][kind])):
                    cells = [f"{scores[key][kind][i]:.6g}" if key in scores else "" for key in DETECTORS]
                    lines.append([record["attack"], record["index"], arm, i, kind == "triggered", *cells])
    return csv_text(header, lines)


def _markdown(table: dict[str, Any]) -> str:
    lines = [
        f"Seed {table['seed']}, base `{table['base_sha256'][:12]}`. The same clean and triggered prompts for every "
        "detector; AUROC with its 95 % bootstrap interval (Newcombe's where classes part completely), true positives "
        "at the threshold that 1 % or 5 % of the clean prompts are above, in sample, with two-sided 95 % "
        "Clopper-Pearson intervals. With fewer than 100 clean prompts the threshold for 1 % is their largest score.",
        "",
        "| detector | mean AUROC of attacks | worst attack | processor seconds a prompt | denoiser evaluations |",
        "|---|---|---|---|---|",
        *(_detector(key, row) for key, row in table["detectors"].items()),
    ]
    for row in table["attacks"]:
        first = row["detectors"]["interaction"]
        lines += [
            "",
            f"`{row['attack']}`, {row['specimens']} specimen, {first['clean']} clean and {first['triggered']} "
            f"triggered prompts ({row['distinct']['clean']} and {row['distinct']['triggered']} different ones); in its "
            f"benign twin the triggered prompts have AUROC {_shown(row['twins'])} by our score.",
            "",
            "| detector | AUROC | TPR at FPR 1 % | TPR at FPR 5 % |",
            "|---|---|---|---|",
            *(_line(key, measured) for key, measured in row["detectors"].items()),
        ]
    lines += [line for told in (*HOW, PUBLISHED) for line in ("", told)]
    if table["left_out"]:
        named = ", ".join(f"`{name}`" for name in table["left_out"])
        lines += ["", f"Without a trigger that a prompt can have, or without a specimen: {named}."]
    return "\n".join(lines) + "\n"


def _detector(key: str, row: dict[str, Any]) -> str:
    worst = row["worst"]
    return (
        f"| {DETECTORS[key][0]} | {row['mean']:.3f} | {worst['value']:.3f} (`{worst['attack']}`) | "
        f"{row['seconds']:.2f} | {row['calls']:.0f} |"
    )


def _line(key: str, measured: dict[str, Any]) -> str:
    rates = [_rate(measured[f"tpr_at_{level:g}"]) for level in LEVELS]
    return f"| {DETECTORS[key][0]} | {_shown(measured['auroc'])} | {' | '.join(rates)} |"


def _shown(area: dict[str, Any]) -> str:
    return f"{area['value']:.3f} ({area['low']:.3f} to {area['high']:.3f})"


def _rate(power: dict[str, Any]) -> str:
    return f"{power['hits']} of {power['n']} ({power['low']:.1%} to {power['high']:.1%})"
