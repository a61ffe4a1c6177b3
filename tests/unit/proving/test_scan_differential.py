"""Nothing that another scanner flags rightly passes ours, and each verdict on an ordinary file is accounted for."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from auditor.proving.scan.benign import benign
from auditor.proving.scan.disputed import dispute
from auditor.proving.scan.hostile import HOSTILE
from auditor.proving.scan.ours import our_verdicts
from auditor.proving.scan.peers import PEERS, find_peers, peer_verdicts
from auditor.proving.scan.prove import prove_scan
from auditor.proving.scan.specimen import Specimen, write_specimens

_PYTHON = os.environ.get("AUDITOR_PEERS_PYTHON")
PYTHON = Path(_PYTHON) if _PYTHON else None


@pytest.fixture(scope="session")
def installed() -> dict[str, str]:
    return find_peers(PYTHON)


def _differential(name: str, specimens: tuple[Specimen, ...], folder: Path) -> None:
    paths = write_specimens(specimens, folder)
    truth = {each.slug: each for each in specimens}
    theirs = {Path(told.path): told for told in peer_verdicts(name, list(paths.values()), PYTHON)}
    ours = {Path(told.path): told for told in our_verdicts(list(paths.values()))}
    assert theirs.keys() == ours.keys() == set(paths.values())
    assert any(told.verdict == "flagged" for told in theirs.values())
    for slug, path in paths.items():
        if theirs[path].verdict == "flagged" and ours[path].verdict != "flagged":
            assert truth[slug].theme == "benign", f"{slug}: {theirs[path].detail}"
            assert dispute(name, truth[slug]), f"{slug}: {theirs[path].detail}"


@pytest.mark.parametrize("name", ["picklescan", "fickling"])
def test_quick_scanners_catch_nothing_that_passes_ours(
    name: str, installed: dict[str, str], tmp_path: Path
) -> None:
    if name not in installed:
        pytest.skip(f"{name} is not installed")
    _differential(name, (*(each for each in HOSTILE if each.theme != "bomb"), *benign(26)), tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", PEERS)
def test_no_scanner_catches_what_passes_ours(name: str, installed: dict[str, str], tmp_path: Path) -> None:
    if name not in installed:
        pytest.skip(f"{name} is not installed")
    _differential(name, (*HOSTILE, *benign(200)), tmp_path)


def test_a_scanner_that_is_missing_is_not_run_and_not_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("auditor.proving.scan.prove.find_peers", lambda python: {})
    monkeypatch.setattr("auditor.proving.scan.prove.HOSTILE", HOSTILE[:3])
    told = prove_scan(tmp_path, lambda done, total, label="": None, n_benign=2, speed=False)
    assert told["not run"] == ", ".join(PEERS)
    assert told["summary"].keys() == {"auditor"}
    assert told["summary"]["auditor"]["hostile flagged"] == 3
    assert "| picklescan | not run" in (tmp_path / "scan.md").read_text("utf-8")
    assert json.loads((tmp_path / "scan.json").read_text("utf-8")) == told
    assert len((tmp_path / "scan_files.csv").read_text("utf-8").splitlines()) == 1 + 5


def test_a_run_that_was_stopped_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def verdicts(name, paths, python):
        asked.append(len(paths))
        yield from our_verdicts(paths)

    monkeypatch.setattr("auditor.proving.scan.prove.find_peers", lambda python: {"picklescan": "0"})
    monkeypatch.setattr("auditor.proving.scan.prove.peer_verdicts", verdicts)
    monkeypatch.setattr("auditor.proving.scan.prove.HOSTILE", HOSTILE[:3])
    first = prove_scan(tmp_path, lambda done, total, label="": None, n_benign=2, speed=False)
    store = tmp_path / "verdicts" / "picklescan-0.jsonl"
    lines = store.read_text("utf-8").splitlines(keepends=True)
    store.write_text("".join(lines[:3]) + lines[3][:20], "utf-8")
    second = prove_scan(tmp_path, lambda done, total, label="": None, n_benign=2, speed=False)
    assert asked == [5, 2]
    assert {k: v for k, v in second["summary"]["picklescan"].items() if k != "seconds"} == {
        k: v for k, v in first["summary"]["picklescan"].items() if k != "seconds"
    }


def test_a_scanner_that_hangs_or_dies_is_an_error_and_the_next_file_is_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = tmp_path / "driver.py"
    driver.write_text(
        "import json, os, sys, time\n"
        "for path in json.load(sys.stdin):\n"
        "    if path.endswith('/hang'): time.sleep(60)\n"
        "    if path.endswith('/die'): os._exit(3)\n"
        "    print(json.dumps({'path': path, 'verdict': 'passed', 'detail': '', 'seconds': 0}), flush=True)\n"
    )
    monkeypatch.setattr("auditor.proving.scan.peers._DRIVER", driver)
    monkeypatch.setattr("auditor.proving.scan.peers.SECONDS_A_FILE", 8.0)
    paths = [tmp_path / name for name in ("a", "hang", "b", "die", "c")]
    told = list(peer_verdicts("picklescan", paths))
    assert [Path(one.path).name for one in told] == ["a", "hang", "b", "die", "c"]
    assert [one.verdict for one in told] == ["passed", "error", "passed", "error", "passed"]
