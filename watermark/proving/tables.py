"""From records of units to figures with intervals, and the sheet of attacks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from auditor.metrics.quality import dual_distance
from auditor.proving.counts import write_whole
from auditor.proving.table import Row, row, write_table
from auditor.stats import Interval, StatisticsError, bootstrap, clopper_pearson
from watermark.proving.bench import USERS
from watermark.proving.nulls import KINDS
from watermark.proving.reading import BLIND, LOGGED
from watermark.proving.rival import FPR, LADDERS
from watermark.proving.units import Unit
from watermark.removal.attack import Removal

__all__ = ["LEVELS", "NULL_LEVELS", "mean_interval", "threshold_of", "write_watermark"]

LEVELS = (1e-6, FPR)
NULL_LEVELS = (1e-1, 1e-2, 1e-3, 1e-4)
_SIGN = "tail_sign"
_RESAMPLES = 1000

Record = dict[str, Any]
Kept = list[tuple[Unit, Record]]


def write_watermark(
    out: Path, records: Sequence[tuple[Unit, Record]], attacks: Sequence[Removal], context: dict[str, Any]
) -> dict[str, Any]:
    """Writes ``watermark.json``, ``.csv`` and ``.md`` of what is done.

    Raises:
        OutputError: ``out`` cannot be written.
    """
    by_kind: dict[tuple[int, str], Kept] = defaultdict(list)
    for unit, record in records:
        by_kind[unit.size, unit.kind].append((unit, record))
    rows: list[Row] = []
    sheets: list[str] = []
    for size in sorted({unit.size for unit, _ in records}, reverse=True):
        kept = {kind: by_kind[at, kind] for at, kind in by_kind if at == size}
        found = _Size(size, kept, [attack.id for attack in attacks if not attack.moves])
        rows += found.rows()
        sheets.append(found.sheet([attack.id for attack in attacks]))
    record = write_table(out, "watermark", "Watermarks on the embedded base", list(map(_decided, rows)), context)
    table = out / "watermark.md"
    write_whole(table, "\n".join(sheets) + "\n" + table.read_text("utf-8"))
    return record


class _Size:
    """Figures at one size.

    Args:
        size: pixels of a side.
        kept: units of each kind with their records.
        in_place: attacks after which latents are where they were.
    """

    def __init__(self, size: int, kept: Mapping[str, Kept], in_place: Sequence[str]) -> None:
        self.size, self._kept, self._in_place = size, kept, in_place
        self.name = f"{size} px"
        self.schemes = list(dict.fromkeys(unit.scheme for unit, _ in self._of("clean")))
        self.rivals = list(dict.fromkeys(unit.scheme for unit, _ in self._of("rival")))
        self._thresholds = {rival: self._threshold(rival) for rival in self.rivals}

    def _of(self, kind: str, scheme: str = "") -> Kept:
        return [one for one in self._kept.get(kind, []) if not scheme or one[0].scheme == scheme]

    def readings(self, scheme: str) -> list[str]:
        """What a scheme was read by."""
        records = self._of("clean", scheme)
        return [name for name in (BLIND, LOGGED) if records and name in records[0][1]]

    def rows(self) -> Iterator[Row]:
        """Every figure."""
        for scheme in self.schemes:
            for reading in self.readings(scheme):
                yield from self._scheme(scheme, reading)
            yield from self._quality(scheme)
            yield from self._told(scheme)
        for scheme in self.schemes:
            yield from self._nulls(scheme)
        for rival in self.rivals:
            yield from self._rival(rival)

    def _group(self, scheme: str, reading: str = "") -> str:
        shown = f", {reading}" if reading and len(self.readings(scheme)) > 1 else ""
        return f"{self.name}, {scheme}{shown}"

    def _scheme(self, scheme: str, reading: str) -> Iterator[Row]:
        group = self._group(scheme, reading)
        clean = _reads(self._of("clean", scheme), reading)
        large = self.size > 64
        for level in LEVELS:
            wanted = 0.99 if (scheme, level, large) == (_SIGN, 1e-6, True) else None
            yield from _found(group, f"found as drawn, at {level:g}", clean, level, wanted)
        yield from _payload(group, clean)
        users = [one["user"] for one in clean if one["user"] is not None]
        if users:
            wanted = 0.98 if scheme == _SIGN and large else None
            told = clopper_pearson(sum(users), len(users))
            yield row(group, f"right user of {USERS:,}", told, target=wanted)
        yield from self._attacked(scheme, reading)
        adapted = [(unit.label, one) for unit, r in self._of("adapter", scheme) for one in r[reading]]
        for level in LEVELS if adapted else ():
            values = [one["p"] <= level for _, one in adapted]
            names = np.unique([label for label, _ in adapted], return_inverse=True)[1]
            interval = mean_interval(values, clusters=names)
            told = replace(interval, method=f"{interval.method}, over models")
            wanted = 0.95 if scheme == _SIGN and level == FPR and large else None
            if all(one["floor"] <= level for _, one in adapted):
                yield row(group, f"found in adapted models' pictures, at {level:g}", told, target=wanted)
        yield from self._forged(scheme, reading)
        seconds = [r["seconds"][reading] / len(r[reading]) for _, r in self._of("clean", scheme)]
        yield row(group, "processor seconds of detection, marked pictures as drawn", _spread(seconds), "s")

    def _attacked(self, scheme: str, reading: str) -> Iterator[Row]:
        group = self._group(scheme, reading)
        for level in LEVELS:
            for attack in self._attacks(scheme):
                reads = _reads([one for one in self._of("attack", scheme) if one[0].label == attack], reading)
                yield from _found(group, f"found after {attack}, at {level:g}", reads, level)
            for name, wanted in self._sets(self._attacks(scheme)):
                values = list(self._averages(scheme, reading, level, wanted).values())
                if values:
                    yield row(group, f"average over {name}, at {level:g}", mean_interval(values))

    def _attacks(self, scheme: str) -> list[str]:
        return list(dict.fromkeys(unit.label for unit, _ in self._of("attack", scheme)))

    def _sets(self, done: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
        """Attacks to average over, of those that were done, and what they are called."""
        in_place = [name for name in done if name in self._in_place]
        yield f"{len(in_place)} attacks in place", in_place
        yield f"{len(done)} attacks", list(done)

    def _averages(
        self, scheme: str, reading: str, level: float, names: Sequence[str]
    ) -> dict[tuple[int, int], float]:
        """For each picture the share of attacks after which it is found; pictures that saw all attacks only."""
        hits: dict[tuple[int, int], dict[str, bool]] = defaultdict(dict)
        for unit, record in self._of("attack", scheme):
            if unit.label in names:
                for i, one in enumerate(record[reading]):
                    if one["floor"] > level:
                        return {}
                    hits[unit.turn, i][unit.label] = one["p"] <= level
        return _whole(hits)

    def _forged(self, scheme: str, reading: str) -> Iterator[Row]:
        group = self._group(scheme, reading)
        for forgery in dict.fromkeys(unit.label for unit, _ in self._of("forgery", scheme)):
            units = [one for one in self._of("forgery", scheme) if one[0].label == forgery]
            reads = _reads(units, reading)
            for level in LEVELS:
                if any(one["floor"] > level for one in reads):
                    continue
                taken = [one["p"] <= level for one in reads]
                told = clopper_pearson(sum(taken), len(taken))
                yield row(group, f"forged by {forgery} and taken for marked, at {level:g}", told)
                bound = [fits for _, record in units for fits in record.get("bound", [])]
                if bound:
                    both = sum(hit and fits for hit, fits in zip(taken, bound, strict=True))
                    told = clopper_pearson(both, len(taken))
                    yield row(group, f"forged by {forgery}, taken and bound to its prompt, at {level:g}", told)
            genuine = [fits for _, record in units for fits in record.get("genuine", [])]
            if genuine and forgery == "reprompt":
                told = clopper_pearson(sum(genuine), len(genuine))
                yield row(group, "genuine pictures near what they are bound to", told)

    def _quality(self, scheme: str) -> Iterator[Row]:
        group = f"{self.name}, {scheme}"
        marked = {unit.turn: record for unit, record in self._of("quality", scheme)}
        plain = {unit.turn: r for unit, r in self._of("quality") if not unit.scheme}
        turns = sorted(marked.keys() & plain.keys())
        if not turns:
            return
        for name, records in (("marked", marked), ("unmarked pictures of the same prompts", plain)):
            right = [hit for turn in turns for hits in records[turn]["right"].values() for hit in hits]
            told = replace(clopper_pearson(sum(right), len(right)), method="Clopper-Pearson, factors")
            yield row(group, f"prompt's factors as the judge reads them, {name}", told)
        gaps = [
            a - b
            for turn in turns
            for a, b in zip(marked[turn]["likeness"], plain[turn]["likeness"], strict=True)
        ]
        yield row(group, "likeness to the prompt, marked less unmarked", mean_interval(gaps, bounded=False), "")
        ours, theirs = (
            np.concatenate([one[turn]["features"] for turn in turns]) for one in (marked, plain)
        )
        half = len(theirs) // 2
        if half >= 2:
            n = len(ours)
            far = dual_distance(ours, theirs)
            yield _point(group, "distance of marked to unmarked pictures (world encoder)", far, n, "")
            near = dual_distance(theirs[:half], theirs[half:])
            yield _point(group, "distance between halves of the unmarked, half as many", near, half, "")
        spreads = (_diversity(ours), _diversity(theirs))
        yield _point(group, "diversity of marked by unmarked pictures", spreads[0] / spreads[1], len(ours), "x")

    def _told(self, scheme: str) -> Iterator[Row]:
        for _, record in self._of("telling", scheme):
            best = max(record["right"].values())
            told = clopper_pearson(best, record["n"])
            limit = 0.55 if scheme == _SIGN else None
            yield _at_most(row(f"{self.name}, {scheme}", "marked noise told from plain, best classifier", told), limit)

    def _nulls(self, scheme: str) -> Iterator[Row]:
        records = [record for _, record in self._of("null", scheme)]
        for kind in (*KINDS, "all") if records else ():
            kinds = KINDS if kind == "all" else (kind,)
            p = np.array([value for record in records for one in kinds for value in record[one]])
            for level in NULL_LEVELS:
                k = int((p <= level).sum())
                exact = clopper_pearson(k, len(p))
                measure = f"false alarms at {level:g}, {kind}: {k} of {len(p):,}"
                one = row(f"{self.name}, {scheme}", measure, exact)
                yield replace(one, target=level, met=bool(exact.low <= level))

    def _threshold(self, rival: str) -> float:
        """The other toolkit's, from pictures without its mark: of its key alone or of all keys together.

        The lower of both, which is to its favour: few pictures make the one too strict, unequal keys the other.
        """
        records = [one for _, record in self._of("rival", rival) for one in record["unmarked"].values()]
        own = [score for one in records for score in one["scores"]]
        others = [score for one in records for scores in one["others"] for score in scores]
        return min(threshold_of(own, FPR), threshold_of(own + others, FPR))

    def _rival(self, rival: str) -> Iterator[Row]:
        group, limit = f"{self.name}, MarkDiffusion {rival}", self._thresholds[rival]
        clean = [score > limit for _, r in self._of("rival", rival) for score in r["marked"]]
        yield row(group, f"found as drawn, at {FPR:g}", clopper_pearson(sum(clean), len(clean)))
        for attack in dict.fromkeys(unit.label for unit, _ in self._of("rival attack", rival)):
            told = self._rival_hits(rival, attack)
            yield row(group, f"found after {attack}, at {FPR:g}", clopper_pearson(sum(told), len(told)))
        done = list(dict.fromkeys(unit.label for unit, _ in self._of("rival attack", rival)))
        for name, names in self._sets(done):
            theirs = self._rival_averages(rival, names)
            if theirs:
                yield row(group, f"average over {name}, at {FPR:g}", mean_interval(list(theirs.values())))
        for scheme in self.schemes:
            # On the attacks that both have seen.
            for name, names in self._sets([one for one in done if one in self._attacks(scheme)]):
                theirs = self._rival_averages(rival, names)
                for reading in self.readings(scheme):
                    ours = self._averages(scheme, reading, FPR, names)
                    both = sorted(ours.keys() & theirs.keys())
                    if both:
                        gaps = [ours[one] - theirs[one] for one in both]
                        measure = f"{scheme}, {reading}, less it: average over {name}, at {FPR:g}"
                        yield row(group, measure, mean_interval(gaps, bounded=False), target=0.0)
        yield from self._speed(rival, group)

    def _rival_hits(self, rival: str, attack: str) -> list[bool]:
        units = [one for one in self._of("rival attack", rival) if one[0].label == attack]
        return [score > self._thresholds[rival] for _, record in units for score in record["marked"]]

    def _rival_averages(self, rival: str, names: Sequence[str]) -> dict[tuple[int, int], float]:
        hits: dict[tuple[int, int], dict[str, bool]] = defaultdict(dict)
        for unit, record in self._of("rival attack", rival):
            if unit.label in names:
                for i, score in enumerate(record["marked"]):
                    hits[unit.turn, i][unit.label] = score > self._thresholds[rival]
        return _whole(hits)

    def _speed(self, rival: str, group: str) -> Iterator[Row]:
        records = [record["speed"] for _, record in self._of("rival", rival)]
        for kind in ("marked", "unmarked") if records else ():
            n = sum(len(record[kind]["ladder"]["found"]) for record in records)
            spent = sum(record[kind]["theirs"][0] for record in records)
            yield _point(group, f"pictures a processor second, {kind}", n / spent, n, "a second")
            for name in LADDERS:
                ours = [record[kind][name] for record in records]
                spent = sum(one["seconds"][0] for one in ours)
                yield _point(group, f"pictures a processor second, ours, {name}, {kind}", n / spent, n, "a second")
                ratios = [
                    record[kind]["theirs"][0] / one["seconds"][0]
                    for record, one in zip(records, ours, strict=True)
                ]
                yield row(group, f"its processor seconds by ours, {name}, {kind}", _spread(ratios), "x", 10.0)
                found = sum(sum(one["found"]) for one in ours)
                yield row(group, f"found by ours in that time, {name}, {kind}", clopper_pearson(found, n))

    def sheet(self, attacks: Sequence[str]) -> str:
        """Attacks by schemes at 1 %, as Markdown."""
        columns: list[tuple[str, dict[str, list[bool]]]] = []
        for scheme in self.schemes:
            for reading in self.readings(scheme):
                cells = {"as drawn": [one["p"] <= FPR for one in _reads(self._of("clean", scheme), reading)]}
                for attack in attacks:
                    units = [one for one in self._of("attack", scheme) if one[0].label == attack]
                    cells[attack] = [one["p"] <= FPR for one in _reads(units, reading)]
                columns.append((self._group(scheme, reading).partition(", ")[2], cells))
        for rival in self.rivals:
            limit = self._thresholds[rival]
            cells = {"as drawn": [s > limit for _, r in self._of("rival", rival) for s in r["marked"]]}
            cells |= {attack: self._rival_hits(rival, attack) for attack in attacks}
            columns.append((f"MarkDiffusion {rival}", cells))
        lines = [
            f"## Found at a false alarm rate of 1 %, pictures of {self.size} pixels",
            "",
            "| attack | " + " | ".join(name for name, _ in columns) + " |",
            "|" + "---|" * (1 + len(columns)),
        ]
        for attack in ("as drawn", *attacks):
            cells_of = [_share(cells.get(attack, [])) for _, cells in columns]
            lines.append(f"| {attack} | " + " | ".join(cells_of) + " |")
        return "\n".join([*lines, ""])


def threshold_of(scores: Sequence[float], fpr: float) -> float:
    """The smallest threshold that at most a share ``fpr`` of null scores lies above."""
    ranked = sorted(scores, reverse=True)
    return ranked[int(fpr * len(ranked))]


def mean_interval(
    values: ArrayLike, *, bounded: bool = True, clusters: ArrayLike | None = None, level: float = 0.95
) -> Interval:
    """Of a mean over pictures, or over clusters of them: bootstrap, or Hoeffding's where all values are the same.

    Args:
        values: (n,).
        bounded: whether they lie in [0, 1]; differences of such values lie in [-1, 1].
        clusters: (n,), what goes together.
        level: nominal coverage.
    """
    rows = np.asarray(values, dtype=np.float64)
    mean = float(rows.mean())
    n = len(rows) if clusters is None else len(np.unique(clusters))
    try:
        return bootstrap(
            rows, lambda batch: batch.mean(axis=1), rng=np.random.default_rng(0), level=level,
            resamples=_RESAMPLES, clusters=clusters,
        )  # fmt: skip
    except StatisticsError:
        width = (1 if bounded else 2) * float(np.sqrt(np.log(2 / (1 - level)) / (2 * n)))
        low, high = (0.0 if bounded else -1.0), 1.0
        return Interval(max(low, mean - width), min(high, mean + width), level, "Hoeffding", mean, n)


def _reads(units: Iterable[tuple[Unit, Record]], reading: str) -> list[Record]:
    return [one for _, record in units for one in record[reading]]


def _found(
    group: str, measure: str, reads: Sequence[Record], level: float, target: float | None = None
) -> Iterator[Row]:
    """Nothing for a level that no picture could have reached."""
    if reads and all(one["floor"] <= level for one in reads):
        hits = sum(one["p"] <= level for one in reads)
        yield row(group, measure, clopper_pearson(hits, len(reads)), target=target)


def _payload(group: str, reads: Sequence[Record]) -> Iterator[Row]:
    right = [1 - one["wrong"] for one in reads if one["wrong"] is not None]
    if right:
        yield row(group, "payload bits read rightly, where the ladder was left", mean_interval(right))


def _whole(hits: Mapping[tuple[int, int], Mapping[str, bool]]) -> dict[tuple[int, int], float]:
    most = max(map(len, hits.values()), default=0)
    return {at: sum(one.values()) / most for at, one in hits.items() if len(one) == most}


def _diversity(features: np.ndarray) -> float:
    """Mean squared distance to the middle."""
    return float(np.square(features - features.mean(axis=0)).sum(axis=1).mean())


def _spread(values: Sequence[float]) -> Interval:
    middle = float(np.median(values))
    return Interval(min(values), max(values), 0.5, "smallest to largest chunk", middle, len(values))


def _point(group: str, measure: str, value: float, n: int, unit: str) -> Row:
    return Row(group, measure, value, unit, n, value, value, 0.0, "no interval", None, None)


def _at_most(one: Row, limit: float | None) -> Row:
    return one if limit is None else replace(one, target=limit, met=one.value <= limit)


def _decided(one: Row) -> Row:
    """A few pictures reach a target or not by chance: neither is said where it lies within the interval.

    False alarms are judged by their interval where they are counted.
    """
    if one.target is None or one.measure.startswith("false alarms"):
        return one
    return replace(one, met=None) if one.low < one.target <= one.high else one


def _share(hits: Sequence[bool]) -> str:
    return f"{sum(hits)}/{len(hits)}" if hits else ""
