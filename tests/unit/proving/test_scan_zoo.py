"""Every hostile file is flagged, within bounds of time and memory; no ordinary file is."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from auditor.proving.scan.benign import KINDS, benign
from auditor.proving.scan.hostile import HOSTILE
from auditor.proving.scan.hostile_bombs import BOMBS
from auditor.proving.scan.ours import our_verdicts
from auditor.proving.scan.specimen import Specimen, write_specimens

ROOT = Path(__file__).resolve().parents[3]
RECORDS = (
    "CVE-2025-1716", "CVE-2025-1889", "CVE-2025-1944", "CVE-2025-1945", "CVE-2025-10155", "CVE-2025-10156",
    "CVE-2025-10157", "picklescan#22", "picklescan#53", "picklescan#74", "nullifAI", "saferpickle#18",
    "CVE-2025-32434", "CVE-2026-24747", "CVE-2026-44513", "diffusers#13446", "PR#249",
)  # fmt: skip


def test_every_record_of_the_sheet_has_a_specimen() -> None:
    told = " | ".join(each.stands_for for each in HOSTILE)
    assert [record for record in RECORDS if record not in told] == []
    assert len({each.slug for each in HOSTILE}) == len(HOSTILE) > 250


def test_every_hostile_file_is_flagged(tmp_path: Path) -> None:
    specimens = tuple(each for each in HOSTILE if each.theme != "bomb")
    paths = write_specimens(specimens, tmp_path)
    passed = {
        Path(told.path).parent.name: told.verdict
        for told in our_verdicts(list(paths.values()))
        if told.verdict != "flagged"
    }
    assert passed == {}


@pytest.mark.parametrize("count", [pytest.param(2 * len(KINDS)), pytest.param(400, marks=pytest.mark.slow)])
def test_no_ordinary_file_is_flagged(tmp_path: Path, count: int) -> None:
    paths = write_specimens(benign(count), tmp_path)
    alarms = {
        Path(told.path).parent.name: told.detail
        for told in our_verdicts(list(paths.values()))
        if told.verdict != "passed"
    }
    assert alarms == {}


def test_ordinary_files_are_the_same_from_the_same_seed() -> None:
    def files(seed: int) -> list[object]:
        return [dict(each.files()) for each in benign(6, seed)]

    assert files(1) == files(1) != files(2)


_MEASURE = r"""
import json, re, resource, sys, time
from pathlib import Path
from auditor.proving.scan.ours import our_verdicts
begun = time.process_time()
told = next(our_verdicts([Path(sys.argv[1])]))
children = resource.getrusage(resource.RUSAGE_CHILDREN)
own = int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1])
print(json.dumps([told.verdict, time.process_time() - begun + children.ru_utime + children.ru_stime, own]))
"""

# Seconds of processor and MiB of the process that a user runs; the guard's own are limited by the kernel.
MOST_SECONDS, MOST_MIB = 40, 600


@pytest.mark.parametrize(
    "bomb",
    [
        pytest.param(each, id=each.slug, marks=[] if number % 3 == 0 else pytest.mark.slow)
        for number, each in enumerate(BOMBS)
    ],
)
def test_bombs_are_flagged_within_bounds(bomb: Specimen, tmp_path: Path) -> None:
    path = bomb.write(tmp_path)
    assert path.stat().st_size < 40 << 20
    command = [sys.executable, "-c", _MEASURE, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    verdict, seconds, kib = json.loads(done.stdout)
    assert verdict == "flagged"
    assert seconds < MOST_SECONDS
    assert kib >> 10 < MOST_MIB


def test_payloads_are_inert() -> None:
    for each in HOSTILE:
        if each.theme in ("opcode", "name", "stream", "import"):
            for data in each.files().values():
                assert not re.search(rb"rm -|curl |wget |https?:", data), each.slug
