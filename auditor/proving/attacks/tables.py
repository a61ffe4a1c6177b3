"""The table of all attacks: success with its interval, the twin's own, cost, seconds, and what recipes tell."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from auditor.proving.attacks.specimens import ARMS, Record
from auditor.proving.counts import write_json
from auditor.stats import clopper_pearson, mcnemar_exact

__all__ = ["write_attacks"]

WOKEN, CLEAN, TWIN = "specimen, triggered", "specimen, clean", "twin, triggered"
ASKED = {"rate": 0.9, "low": 0.8, "recipe_only": 0.6}
"""What is asked of attacks: a success rate, its lower bound, and the most that a recipe may tell."""


def write_attacks(
    out: Path, records: Sequence[Record], unmeasured: Sequence[str], recipes: dict[str, Any], context: dict[str, Any]
) -> dict[str, Any]:
    """Writes ``attacks.json``, ``.csv`` (a row a specimen) and ``.md`` (a row an attack); returns what the JSON holds.

    Args:
        out: the folder.
        records: of all specimens.
        unmeasured: registered attacks that craft nothing to be measured.
        recipes: see :func:`auditor.proving.attacks.recipe_only.judge_recipes`.
        context: seed and base.
    """
    names = list(dict.fromkeys(record.attack for record in records))
    table = {
        **context,
        "asked": ASKED,
        "rows": [_row(name, [record for record in records if record.attack == name]) for name in names],
        "unmeasured": list(unmeasured),
        "recipe_only": recipes,
    }
    write_json(out / "attacks.json", table)
    (out / "attacks.csv").write_text(_csv(records), "utf-8")
    (out / "attacks.md").write_text(_markdown(table), "utf-8")
    return table


def _row(name: str, records: Sequence[Record]) -> dict[str, Any]:
    made = [record for record in records if not record.refused]
    rates = [cell["hits"] / cell["n"] for record in made if (cell := _cells(record).get(WOKEN))]
    seconds = [record.seconds for record in made if record.seconds is not None]
    return {
        "attack": name,
        "specimens": len(made),
        "refused": sorted({record.refused for record in records if record.refused}),
        "trigger_free": any(record.trigger.get("free") for record in made),
        "asr": _pooled(made, WOKEN),
        "worst": min(rates, default=None),
        "clean": _pooled(made, CLEAN),
        "twin": _pooled(made, TWIN),
        "utility": _utility(made),
        "seconds": float(np.median(seconds)) if seconds else None,
        "parts": sorted({" + ".join(record.arms["specimen"].parts) for record in made}),
    }


def _cells(record: Record) -> dict[str, Any]:
    found: dict[str, Any] = record.asr.get("cells", {})
    return found


def _pooled(records: Sequence[Record], cell: str) -> dict[str, Any] | None:
    """Hits of all specimens together, with the exact interval of pictures that were independent."""
    found = [cells[cell] for record in records if cell in (cells := _cells(record))]
    hits, n = (sum(int(each[key]) for each in found) for key in ("hits", "n"))
    if not n:
        return None
    exact = clopper_pearson(hits, n)
    return {"hits": hits, "n": n, "rate": hits / n, "low": exact.low, "high": exact.high}


def _utility(records: Sequence[Record]) -> dict[str, Any] | None:
    """Pairs of pictures of the same prompt and seed, over all specimens, compared by the exact McNemar test."""
    found = [record.utility for record in records if record.utility.get("n")]
    if not found:
        return None
    only = {name: sum(int(each[f"only_{name}"]) for each in found) for name in ("specimen", "twin")}
    return {
        "n": sum(int(each["n"]) for each in found),
        **{name: sum(int(each[name]["hits"]) for each in found) for name in only},
        **{f"only_{name}": count for name, count in only.items()},
        "p_value": mcnemar_exact(only["specimen"], only["twin"]).p_value,
    }


def _csv(records: Sequence[Record]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    recipe = ("rank", "steps", "lr", "text_encoder")
    norms = ("denoiser_norm", "text_norm")
    cells = (WOKEN, CLEAN, TWIN)
    header = ["attack", "specimen", *recipe, "trigger", "target", *cells, "pairs", "only_specimen", "only_twin"]
    sizes = [f"{arm}_{norm}" for arm in ARMS for norm in norms]
    writer.writerow([*header, *sizes, "seconds", "refused"])
    for r in records:
        writer.writerow(
            [
                r.attack,
                r.index,
                *(f"{r.recipe[key]:g}" if key in r.recipe else "" for key in recipe),
                # Triggers may be letters that a spreadsheet shows as nothing, or takes for others.
                ascii(r.trigger.get("text", next(iter(r.trigger.values()), ""))),
                r.target,
                *(f"{cell['hits']}/{cell['n']}" if (cell := _cells(r).get(key)) else "" for key in cells),
                *(r.utility.get(key, "") for key in ("n", "only_specimen", "only_twin")),
                *(
                    f"{r.arms[arm].covariates[norm]:.6g}" if r.arms else ""
                    for arm in ARMS
                    for norm in norms
                ),
                "" if r.seconds is None else f"{r.seconds:.1f}",
                r.refused,
            ]
        )
    return out.getvalue()


def _markdown(table: dict[str, Any]) -> str:
    lines = [
        f"Seed {table['seed']}, base `{table['base_sha256'][:12]}`; intervals are two-sided 95 % Clopper-Pearson over "
        "the pictures of all specimens together. Seconds are processor time of the training of one arm.",
        "",
        "| attack | specimens | success with the trigger | worst specimen | without | twin with the trigger | "
        "object drawn as asked, specimen / twin (only twin : only specimen, p) | seconds | parts |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_line(row) for row in table["rows"]),
    ]
    free = [f"`{row['attack']}`" for row in table["rows"] if row["trigger_free"]]
    if free:
        lines += ["", f"Without a trigger, so that every prompt counts as woken: {', '.join(free)}."]
    for row in table["rows"]:
        lines += [f"- `{row['attack']}` was not made with every recipe: {reason}" for reason in row["refused"]]
    if table["unmeasured"]:
        lines += ["", "Not measured: " + ", ".join(f"`{name}`" for name in table["unmeasured"]) + "."]
    lines += ["", "What the recipe alone tells (logistic regression, cross-validated by pair; "
              f"{ASKED['recipe_only']:g} at most is asked):", ""]  # fmt: skip
    lines += [f"- against {told}: {_area(table['recipe_only'][key])}" for key, told in _AGAINST.items()]
    return "\n".join(lines) + "\n"


_AGAINST = {"twins": "the twins", "zoo": "low-rank members of the clean zoo"}


def _line(row: dict[str, Any]) -> str:
    utility = row["utility"]
    cost = "not measured" if utility is None else (
        f"{utility['specimen']} / {utility['twin']} of {utility['n']} "
        f"({utility['only_twin']} : {utility['only_specimen']}, {utility['p_value']:.2g})"
    )  # fmt: skip
    cells = (
        f"`{row['attack']}`",
        str(row["specimens"]),
        _count(row["asr"]),
        "" if row["worst"] is None else f"{row['worst']:.0%}",
        _count(row["clean"]),
        _count(row["twin"]),
        cost,
        "" if row["seconds"] is None else f"{row['seconds']:.0f}",
        "<br>".join(row["parts"]),
    )
    return "| " + " | ".join(cells) + " |"


def _count(count: dict[str, Any] | None) -> str:
    if count is None:
        return "not measured"
    return f"{count['hits']} of {count['n']} ({count['low']:.1%} to {count['high']:.1%})"


def _area(area: dict[str, Any] | None) -> str:
    if area is None:
        return "not measured, there are too few"
    size = f"{area['specimens']} specimens, {area['clean']} clean"
    return f"AUROC {area['value']:.3f} ({area['low']:.3f} to {area['high']:.3f}; {size})"
