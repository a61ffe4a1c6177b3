"""A run that is killed and resumed gives the report of one that was not, and repeats no finished work."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
UNITS = 30


def drive(kind: str, seed: int) -> dict:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        dir=memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    ) as folder:
        done = subprocess.run(
            [sys.executable, str(HERE / "kill_driver.py"), folder, kind, str(seed)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)]), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=200,
        )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", ["torn", "timed"])
def test_killed_at_twenty_random_points_and_resumed_gives_the_identical_report(kind):
    told = drive(kind, seed=20)
    assert told["whole"]["units"] == UNITS
    assert told["whole"]["repeats"] == 0
    assert len(told["trials"]) == 20
    assert sum(trial["killed"] for trial in told["trials"]) >= (20 if kind == "torn" else 5)
    for trial in told["trials"]:
        assert trial["canonical"] == told["whole"]["canonical"]
        assert trial["units"] == UNITS
        assert trial["repeats"] <= 1
        assert trial["leftovers"] == 0


def test_one_run_killed_twenty_times_repeats_at_most_one_unit_per_kill():
    told = drive("chain", seed=3)
    (trial,) = told["trials"]
    assert trial["killed"] == 20
    assert trial["canonical"] == told["whole"]["canonical"]
    assert trial["repeats"] <= 20
