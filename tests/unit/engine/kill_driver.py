"""Kills and resumes forked runs; prints one JSON object. Run as ``python kill_driver.py FOLDER KIND SEED``.

The process imports the engine once and forks for every run, so that a kill is a real SIGKILL and costs
milliseconds.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from engine_world import TOOL, FakeSubject, finding, make_probe, policy, registry, result

import auditor.engine.rundir as rundir
from auditor.contracts import Capability, Stage
from auditor.engine import audit, open_run, read_plan, resume
from auditor.policy import policy_from_document

UNITS = 10


def probes(side: Path):
    def unit_work(name: str, value: object):
        def work() -> object:
            handle = os.open(side, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.write(handle, f"{name}\n".encode())
            os.close(handle)
            time.sleep(0.002)
            return value

        return work

    def measuring(id: str, size: int):
        def function(subject, params, run):
            total = 0.0
            for index in range(UNITS):
                draw = run.rng("draw", index).random(size).tolist()
                value = run.unit(f"u{index}", unit_work(f"{id}/u{index}", {"draw": draw, "odd": (1, None)}))
                total += sum(value["draw"])
                if index % 4 == 0:
                    run.evidence(f"e{index}", f"{id}{index}{total!r}".encode(), "text/plain")
            others = [r.value for name in run_consumes[id] for r in run.results_of(name)]
            yield result(id, value=total + sum(others), n=UNITS, details={"odd": (1, 2), "others": others})
            yield finding(rule_id=id, why=repr(total))

        return function

    run_consumes = {"a.one": (), "b.two": ("a.one",), "c.three": ("a.one", "b.two")}
    sizes = {"a.one": 3, "b.two": 6000, "c.three": 5}  # the second one's values go to blobs
    return registry(
        *(
            make_probe(
                id, measuring(id, sizes[id]), needs=(Capability.FILE,), stage=Stage.FILE, consumes=consumes
            )
            for id, consumes in run_consumes.items()
        )
    )


def child(run: Path, side: Path, kill_at: tuple[int, float] | None) -> None:
    """One process: begins or goes on, and kills itself while writing an event if told to."""
    if kill_at is not None:
        count, share = kill_at
        whole = rundir.write_all
        seen = 0

        def tearing(handle: int, data: bytes) -> None:
            nonlocal seen
            seen += 1
            if seen == count:
                whole(handle, data[: int(len(data) * share)])
                os.kill(os.getpid(), signal.SIGKILL)
            whole(handle, data)

        rundir.write_all = tearing
    known = probes(side)
    if (run / "plan.json").exists():
        kept = policy_from_document(read_plan(run).policy_document)
        resume(run, FakeSubject(), policy=kept, registry=known, tool=TOOL)
    else:
        audit(FakeSubject(), policy=policy(), seed=7, out=run, registry=known, tool=TOOL)


def fork(run: Path, side: Path, kill_at: tuple[int, float] | None = None, delay: float | None = None) -> bool:
    """Whether the child came to its end."""
    pid = os.fork()
    if pid == 0:
        try:
            child(run, side, kill_at)
            os._exit(0)
        except BaseException as problem:
            sys.stderr.write(f"{type(problem).__name__}: {problem}\n")
            os._exit(9)
    if delay is not None:
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 9:
        raise SystemExit("a child failed")
    return os.WIFEXITED(status)


def trial(folder: Path, kills: list[dict[str, object]]) -> dict[str, object]:
    run, side = folder / "run", folder / "side"
    folder.mkdir()
    killed = sum(not fork(run, side, **kill) for kill in kills)
    if not fork(run, side):
        raise SystemExit("the last process did not end by itself")
    done = side.read_text().splitlines()
    finished = open_run(run)
    leftovers = [p.name for p in run.iterdir() if p.name.startswith(".run-") and p.name != ".run-lock"]
    return {
        "killed": killed,
        "repeats": len(done) - len(set(done)),
        "units": len(set(done)),
        "canonical": finished.report.canonical(),
        "leftovers": len(leftovers),
    }


def main() -> None:
    folder, kind, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    draw = random.Random(seed)
    whole = trial(folder / "whole", [])
    torn = [
        {"kill_at": (draw.randint(1, 34), draw.choice([0.0, draw.random(), draw.random(), 1.0]))}
        for _ in range(20)
    ]
    timed = [{"delay": draw.uniform(0.0, 0.08)} for _ in range(20)]
    if kind == "chain":
        short = [{"kill_at": (draw.randint(1, 3), draw.random())} for _ in range(20)]
        trials = [trial(folder / "chain", short)]
    else:
        kills = torn if kind == "torn" else timed
        trials = [trial(folder / str(index), [kill]) for index, kill in enumerate(kills)]
    print(json.dumps({"whole": whole, "trials": trials}))


if __name__ == "__main__":
    main()
