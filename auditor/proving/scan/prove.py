"""``auditor prove scan``: the same hostile and benign files through this scanner and through others."""

from __future__ import annotations

import json
import os
import platform
import resource
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any

from auditor.contracts import Progress
from auditor.proving.counts import write_whole
from auditor.proving.scan.benign import benign
from auditor.proving.scan.disputed import dispute
from auditor.proving.scan.hostile import HOSTILE
from auditor.proving.scan.ours import OURS, our_folder_seconds, our_verdicts
from auditor.proving.scan.peers import PEERS, PeerVerdict, find_peers, peer_folder_seconds, peer_verdicts
from auditor.proving.scan.specimen import Specimen, write_specimens
from auditor.proving.scan.speed import RATIOS, ratios, write_pickles, write_tensor_files
from auditor.proving.table import Row, csv_text, row, write_table
from auditor.stats import Interval, clopper_pearson
from auditor.text import inert

__all__ = ["Line", "prove_scan"]

# Ours answers two questions: the one that the others answer, and what the file is besides.
_FULL = "auditor, with identity"
_PROCESSOR = ", processor"
_SPEED_ROUNDS = {OURS: 5, _FULL: 5, "picklescan": 5, "modelscan": 2, "fickling": 2, "modelaudit": 2}


@dataclass(frozen=True)
class Line:
    """One cell of the differential table: a scanner's word on a specimen whose truth is known."""

    scanner: str
    slug: str
    truth: str
    theme: str
    stands_for: str
    verdict: str
    seconds: float
    detail: str
    disputed: str


def prove_scan(
    out: Path, progress: Progress, n_benign: int = 200, seed: int = 0, python: Path | None = None,
    speed: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Runs every scanner that is installed over the zoo; what ``out`` holds already is kept.

    Args:
        out: folder for ``files/``, ``verdicts/``, ``speed/``, ``scan.json``, ``scan.csv``, ``scan.md`` and
            ``scan_files.csv``.
        progress: told of every verdict.
        n_benign: benign specimens.
        seed: of the benign specimens.
        python: the interpreter that has the other scanners; this one by default.
        speed: whether to time whole folders as well.

    Returns:
        What ``scan.json`` holds.

    Raises:
        OutputError: ``out`` cannot be written.
        AuditorError: the interpreter for the other scanners does not run.
    """
    out = out.absolute()  # the other scanners run in a folder of their own
    versions = find_peers(python)
    specimens = [
        *(("hostile", each) for each in HOSTILE),
        *(("benign", each) for each in benign(n_benign, seed)),
    ]
    paths = write_specimens(tuple(each for _, each in specimens), out / "files")
    lines: list[Line] = []
    scanners = [OURS, *(name for name in PEERS if name in versions)]
    for position, scanner in enumerate(scanners):
        told = dict[str, PeerVerdict]()
        for one in _verdicts(scanner, paths, out, python, versions.get(scanner, "")):
            told[one.path] = one
            progress(position * len(paths) + len(told), len(scanners) * len(paths), "verdicts")
        lines += [_line(scanner, truth, each, told[str(paths[each.slug])], out) for truth, each in specimens]
    timed = _timed(out, scanners, python, seed, progress) if speed else {}
    return _write(out, lines, timed, versions, n_benign, seed)


def _verdicts(
    scanner: str, paths: Mapping[str, Path], out: Path, python: Path | None, version: str
) -> Iterator[PeerVerdict]:
    """Those that are on file, then the missing ones, each on file as soon as it is there."""
    store = out / "verdicts" / f"{scanner}{'-' if version else ''}{version}.jsonl"
    store.parent.mkdir(parents=True, exist_ok=True)
    wanted = {str(path): path for path in paths.values()}
    known = _read_lines(store) if scanner != OURS else []
    for kept in known:
        if kept.path in wanted:
            del wanted[kept.path]
            yield kept
    ask: Callable[[Sequence[Path]], Iterator[PeerVerdict]] = our_verdicts
    if scanner != OURS:
        ask = lambda left: peer_verdicts(scanner, left, python)  # noqa: E731
    with store.open("w" if scanner == OURS else "a", encoding="utf-8") as file:
        for verdict in ask(list(wanted.values())):
            file.write(json.dumps(asdict(verdict)) + "\n")
            file.flush()
            yield verdict


def _read_lines(store: Path) -> list[PeerVerdict]:
    if not store.exists():
        return []
    found = []
    for line in store.read_text("utf-8").splitlines():
        try:
            found.append(PeerVerdict(**json.loads(line)))
        except ValueError:
            continue  # the last line of a run that was stopped
    return found


def _line(scanner: str, truth: str, each: Specimen, told: PeerVerdict, out: Path) -> Line:
    wrong = truth == "benign" and told.verdict == "flagged" and scanner != OURS
    detail = told.detail.replace(str(out / "files"), "")
    return Line(
        scanner, each.slug, truth, each.theme, each.stands_for, told.verdict, told.seconds, detail,
        dispute(scanner, each) if wrong else "",
    )  # fmt: skip


def _timed(
    out: Path, scanners: Sequence[str], python: Path | None, seed: int, progress: Progress
) -> dict[str, list[dict[str, float]]]:
    folders = {
        "pickles": write_pickles(out / "files" / "speed-pickles", seed=seed),
        "safetensors": write_tensor_files(out / "files" / "speed-safetensors", seed=seed),
    }
    found: dict[str, list[dict[str, float]]] = {}
    for kind, folder in folders.items():
        runners: dict[str, Callable[[], float]] = {
            OURS: lambda folder=folder: our_folder_seconds(folder, safety_only=True),  # type: ignore[misc]
            _FULL: lambda folder=folder: our_folder_seconds(folder, safety_only=False),  # type: ignore[misc]
        }
        for name in scanners[1:] if kind == "pickles" else [n for n in scanners if n == "modelaudit"]:
            runners[name] = lambda name=name, folder=folder: peer_folder_seconds(name, folder, python)  # type: ignore[misc]
        found[kind] = [
            _round(out / "speed" / f"{kind}-{number}.json", runners, number, progress)
            for number in range(max(_SPEED_ROUNDS.values()))
        ]
    return found


def _round(
    store: Path, runners: Mapping[str, Callable[[], float]], number: int, progress: Progress
) -> dict[str, float]:
    """One round on file, or made: the order turns from round to round, so that no scanner always finds warm pages."""
    if store.exists():
        kept: dict[str, float] = json.loads(store.read_text("utf-8"))
        return kept
    names = [name for name in runners if number < _SPEED_ROUNDS[name]]
    turned = names[number % len(names) :] + names[: number % len(names)]
    seconds: dict[str, float] = {}
    for name in turned if number % 2 == 0 else turned[::-1]:
        before = _processor_seconds()
        seconds[name] = runners[name]()
        seconds[f"{name}{_PROCESSOR}"] = _processor_seconds() - before
    seconds["load"] = os.getloadavg()[0]
    store.parent.mkdir(parents=True, exist_ok=True)
    store.write_text(json.dumps(seconds), "utf-8")
    progress(number + 1, max(_SPEED_ROUNDS.values()), store.stem)
    return seconds


def _processor_seconds() -> float:
    """Of all processes that have ended so far, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _write(
    out: Path, lines: list[Line], timed: Mapping[str, list[dict[str, float]]], versions: Mapping[str, str],
    n_benign: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    summary = _summary(lines)
    context = {
        "seed": seed,
        "hostile": len(HOSTILE),
        "benign": n_benign,
        "not run": ", ".join(name for name in PEERS if name not in versions) or "none",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()) or "none",
        "machine": f"{os.cpu_count()} processors, Python {platform.python_version()}",
        "load while timed": _load(timed),
        "caught by another scanner and passed by ours": len(_missed(lines)),
        "benign files flagged by another scanner without a reason on file": len(_unexplained(lines)),
        "summary": summary,
        "speed": {
            kind: {"rounds": rounds, "ratios": ratios(rounds, OURS, [*PEERS, _FULL])}
            for kind, rounds in timed.items()
        },
    }
    rows = [*_rate_rows(lines), *_speed_rows(timed)]
    record = write_table(out, "scan", "Scanners on hostile and benign files", rows, context)
    table = out / "scan.md"
    write_whole(table, _summary_markdown(summary, versions) + table.read_text("utf-8"))
    write_whole(out / "scan_files.csv", _csv(lines))
    return record


def _load(timed: Mapping[str, list[dict[str, float]]]) -> str:
    found = [one["load"] for rounds in timed.values() for one in rounds if "load" in one]
    return f"{min(found):.1f} to {max(found):.1f} processes wanting a processor" if found else "not timed"


def _missed(lines: Sequence[Line]) -> list[str]:
    """Hostile specimens that some other scanner flags and ours does not."""
    theirs = {
        one.slug
        for one in lines
        if one.truth == "hostile" and one.scanner != OURS and one.verdict == "flagged"
    }
    return sorted(theirs - {one.slug for one in lines if one.scanner == OURS and one.verdict == "flagged"})


def _unexplained(lines: Sequence[Line]) -> list[str]:
    return [
        f"{one.scanner} {one.slug}" for one in lines
        if one.truth == "benign" and one.scanner != OURS and one.verdict == "flagged" and not one.disputed
    ]  # fmt: skip


def _summary(lines: Sequence[Line]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for one in lines:
        cell = found.setdefault(one.scanner, {})
        key = f"{one.truth} {one.verdict}"
        cell[key] = cell.get(key, 0) + 1
        cell["seconds"] = cell.get("seconds", 0.0) + one.seconds
    return found


_VERDICTS = ("flagged", "passed", "skipped", "error")
_CELLS = tuple(f"{truth} {verdict}" for truth in ("hostile", "benign") for verdict in _VERDICTS)


def _summary_markdown(summary: Mapping[str, Mapping[str, float]], versions: Mapping[str, str]) -> str:
    head = ["scanner", *_CELLS, "seconds"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name in (OURS, *PEERS):
        cell = summary.get(name)
        if cell is None:
            lines.append(f"| {name} | not run: not installed |" + " |" * len(_CELLS))
        else:
            counts = [str(int(cell.get(key, 0))) for key in _CELLS]
            told = f"{name} {versions[name]}" if name in versions else name
            lines.append(f"| {told} | {' | '.join(counts)} | {cell['seconds']:.1f} |")
    return "\n".join(lines) + "\n\n"


def _rate_rows(lines: Sequence[Line]) -> Iterator[Row]:
    for scanner in dict.fromkeys(one.scanner for one in lines):
        for truth, target in (("hostile", 1.0), ("benign", None)):
            of_it = [one for one in lines if one.scanner == scanner and one.truth == truth]
            if of_it:
                flagged = sum(one.verdict == "flagged" for one in of_it)
                wanted = target if scanner == OURS else None
                yield row(scanner, f"{truth} flagged", clopper_pearson(flagged, len(of_it)), target=wanted)


def _speed_rows(timed: Mapping[str, list[dict[str, float]]]) -> Iterator[Row]:
    peers = list(PEERS)
    for kind, rounds in timed.items():
        by_clock = ratios(rounds, OURS, peers)
        fastest = min(by_clock, key=lambda name: by_clock[name]["median"], default="")
        for peer in by_clock:
            target = RATIOS[kind] if peer == fastest else None
            yield _ratio_row(peer, f"{kind}, safety alone, by the clock", by_clock[peer], target)
            told = ratios(rounds, OURS + _PROCESSOR, [peer + _PROCESSOR])
            yield _ratio_row(peer, f"{kind}, safety alone, processor", told[peer + _PROCESSOR])
            told = ratios(rounds, _FULL, [peer])
            yield _ratio_row(peer, f"{kind}, with identity, by the clock", told[peer])


def _ratio_row(peer: str, measure: str, one: Mapping[str, Any], target: float | None = None) -> Row:
    spread = Interval(one["low"], one["high"], 0.5, "smallest to largest round", one["median"], one["rounds"])
    return row(f"seconds of {peer} / ours", measure, spread, "x", target)


def _csv(lines: Sequence[Line]) -> str:
    shown = (replace(one, seconds=round(one.seconds, 4), detail=inert(one.detail, 400)) for one in lines)
    return csv_text([field.name for field in fields(Line)], map(astuple, shown))
