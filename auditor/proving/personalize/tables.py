"""From records of units to figures with intervals, and to the table that people read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from auditor.proving.counts import write_whole
from auditor.proving.personalize.concepts import ARMS, CONCEPT_MEASURES
from auditor.proving.personalize.recipes import RECIPES
from auditor.proving.personalize.unit import MEASURES
from auditor.proving.table import Row, csv_of_rows, row
from auditor.stats import Interval, bootstrap

__all__ = ["interval_of", "rows_of", "write_tables"]

_UNITS = {"identity": "cosine", "style": "share", "image": "cosine", "prompt": "share", "drift": "distance"}
_TITLES = {
    "subject": "People and an object",
    "style": "Styles",
    "size": "Pictures twice the size that the base was made for",
}
_HEADS = {
    "identity": "identity (people)",
    "style": "in the style",
    "image": "likeness",
    "prompt": "prompt followed",
    "drift": "drift",
}
_LEGEND = (
    "Cells read: untrained, then trained with its 95 % interval; bold where the interval of the paired gain leaves out "
    "zero. Untrained is the base on the same prompts and noise, a learned word read as the word that it starts from. "
    "`n` counts trainings (subject and seed).",
    "",
    "Identity and likeness are mean cosines with held-out pictures of the subject, by the identity embedder and the "
    "dual encoder. Prompt followed is the share of asked attributes in compositions that training never showed, as the "
    "judge reads them. Drift is 1 - cosine of the class's pictures, without the identifier, with the base's from the "
    "same noise. Trained numbers are those an optimiser held at once; seconds hold prior pictures and saving.",
)
_CONCEPT_HEADS = {"cp": "CP-CLIP", "both": "both there", "ti": "TI-CLIP", "gap": "TI over other prompts"}


def interval_of(values: Sequence[float], seed: int = 0) -> Interval:
    """Mean of units with its bootstrap interval at 95 %.

    One unit has no interval, and neither have units that are all equal: ends are the value, and ``method`` says so.
    """
    sample = np.asarray(values, float)
    mean, count = float(sample.mean()), len(sample)
    if count < 2:
        return Interval(mean, mean, 0.95, "none: one unit", mean, count)
    if np.ptp(sample) == 0:
        return Interval(mean, mean, 0.95, "none: all units equal", mean, count)
    return bootstrap(sample, lambda batch: batch.mean(axis=1), rng=np.random.default_rng(seed))


def rows_of(records: Iterable[Mapping[str, Any]]) -> list[Row]:
    """A row for every method, measure and arm that has units.

    Arms: ``untrained``, ``trained``, ``gain`` (the paired difference), and ``real`` (pictures of the subject itself).
    For drift ``untrained`` is how far the base's own pictures of the class are from each other.
    """
    by_method: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        by_method.setdefault(record["method"], []).append(record)
    rows = []
    for method in (name for name in RECIPES if name in by_method):
        units = by_method[method]
        for measure in MEASURES:
            for arm in ("untrained", "trained", "gain", "real"):
                values = _values(units, measure, arm)
                if values:
                    rows.append(row(method, f"{measure}, {arm}", interval_of(values), _UNITS[measure]))
        for name, unit in (("parameters", "numbers"), ("bytes", "bytes"), ("seconds", "s")):
            values = [float(each["cost"][name]) for each in units]
            rows.append(row(method, name, interval_of(values), unit))
    return rows


def _values(units: Sequence[Mapping[str, Any]], measure: str, arm: str) -> list[float]:
    if arm == "gain":
        if measure == "drift":
            return []
        both = [each for each in units if measure in each["trained"] and measure in each["untrained"]]
        return [each["trained"][measure] - each["untrained"][measure] for each in both]
    return [each[arm][measure] for each in units if measure in each[arm]]


def concept_rows(records: Sequence[Mapping[str, Any]]) -> list[Row]:
    """A row for every way of putting two adapters together, and each measure."""
    units = {"both": "share"}
    return [
        row(arm, measure, interval_of([each[arm][measure] for each in records]), units.get(measure, "cosine"))
        for arm in ARMS
        for measure in CONCEPT_MEASURES
        if records
    ]


def write_tables(
    out: Path,
    records: Sequence[Mapping[str, Any]],
    concepts: Sequence[Mapping[str, Any]],
    context: Mapping[str, Any],
) -> dict[str, Any]:
    """Writes ``personalize.json``, ``.csv`` and ``.md``, and returns what the JSON holds.

    Args:
        out: the folder.
        records: of units.
        concepts: of pairs of concepts.
        context: how it was measured; simple values are listed under the table.

    Raises:
        OutputError: a file cannot be written.
    """
    rows, merged = rows_of(records), concept_rows(concepts)
    methods = {name: _about(name, records) for name in RECIPES if any(r["method"] == name for r in records)}
    table = {
        "title": "Fine-tuning methods on the embedded world", **context, "methods": methods,
        "rows": [asdict(each) for each in rows], "concepts": [asdict(each) for each in merged],
    }  # fmt: skip
    write_whole(out / "personalize.json", json.dumps(table, indent=1) + "\n")
    write_whole(out / "personalize.csv", csv_of_rows([*rows, *merged]))
    write_whole(out / "personalize.md", _markdown(table, rows, merged, context))
    return table


def _about(method: str, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first = next(each for each in records if each["method"] == method)
    recipe = RECIPES[method]
    return {
        "kind": recipe.kind,
        "pictures": recipe.pictures or "all",
        "steps": first["cost"]["steps"],
        "share of default steps": first["cost"]["share"],
        "changes": {name: first["recipe"][name] for name in recipe.changes},
        "targets": sorted({each["target"] for each in records if each["method"] == method}),
        "note": recipe.note,
    }


def _markdown(
    table: Mapping[str, Any], rows: Sequence[Row], merged: Sequence[Row], context: Mapping[str, Any]
) -> str:
    found = {(each.group, each.measure): each for each in rows}
    lines = [f"# {table['title']}", ""]
    for kind, title in _TITLES.items():
        names = [name for name, about in table["methods"].items() if about["kind"] == kind]
        if names:
            lines += [f"## {title}", "", *_kind_table(names, found), "", *_notes(names, table["methods"]), ""]
    if merged:
        lines += ["## Two concepts in one picture", "", *_concept_table(merged), ""]
    lines += [
        *_LEGEND,
        "",
        *(f"- {key}: {value}" for key, value in context.items() if isinstance(value, str | int | float)),
    ]
    return "\n".join(lines) + "\n"


def _kind_table(names: Sequence[str], found: Mapping[tuple[str, str], Row]) -> list[str]:
    shown = [each for each in MEASURES if any((name, f"{each}, trained") in found for name in names)]
    heads = ["method", *(_HEADS[each] for each in shown), "trained numbers", "file", "processor s", "n"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|", _yardstick(names, shown, found)]
    for name in names:
        cells = [_cell(name, each, found) for each in shown]
        numbers, size, seconds = (found[name, each].value for each in ("parameters", "bytes", "seconds"))
        n = found[name, "prompt, trained"].n
        cost = [f"{numbers:,.0f}", _bytes(size), f"{seconds:.0f}"]
        lines.append("| " + " | ".join([f"`{name}`", *cells, *cost, str(n)]) + " |")
    return lines


def _yardstick(names: Sequence[str], shown: Sequence[str], found: Mapping[tuple[str, str], Row]) -> str:
    cells = []
    for measure in shown:
        arm = "untrained" if measure == "drift" else "real"
        known = [found[name, f"{measure}, {arm}"] for name in names if (name, f"{measure}, {arm}") in found]
        cells.append(_value(max(known, key=lambda each: each.n)) if known else "")
    return (
        "| *real pictures; for drift, base pictures of other noise* | "
        + " | ".join([*cells, *[""] * 4])
        + " |"
    )


def _cell(name: str, measure: str, found: Mapping[tuple[str, str], Row]) -> str:
    after = found.get((name, f"{measure}, trained"))
    if after is None:
        return ""
    shown = _value(after) + _ends(after)
    if measure == "drift":
        return shown
    gain = found[name, f"{measure}, gain"]
    if _known(gain) and not gain.low <= 0 <= gain.high:
        shown = f"**{shown}**"
    return f"{_value(found[name, f'{measure}, untrained'])}, {shown}"


def _concept_table(merged: Sequence[Row]) -> list[str]:
    found = {(each.group, each.measure): each for each in merged}
    heads = ["adapters", *_CONCEPT_HEADS.values(), "n"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for arm in dict.fromkeys(each.group for each in merged):
        cells = []
        for measure in _CONCEPT_HEADS:
            one = found[arm, measure]
            cells.append(_value(one) + _ends(one))
        lines.append("| " + " | ".join([arm, *cells, str(found[arm, "cp"].n)]) + " |")
    return lines


def _notes(names: Sequence[str], methods: Mapping[str, Any]) -> list[str]:
    lines = []
    for name in names:
        about = methods[name]
        changed = ", ".join(f"{key} {value}" for key, value in about["changes"].items() if key != "steps")
        told = f"- `{name}`: {about['steps']} steps, {100 * about['share of default steps']:.0f} % of the default"
        lines.append(
            told + (f"; {changed}" if changed else "") + (f". {about['note']}" if about["note"] else ".")
        )
    return lines


def _known(each: Row) -> bool:
    return not each.method.startswith("none")


def _ends(each: Row) -> str:
    return f" ({_shown(each.low, each.unit)} to {_shown(each.high, each.unit)})" if _known(each) else ""


def _value(each: Row) -> str:
    return _shown(each.value, each.unit)


def _shown(value: float, unit: str) -> str:
    return f"{100 * value:.0f} %" if unit == "share" else f"{value:.2f}"


def _bytes(size: float) -> str:
    for unit, factor in (("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size:.0f} B"
