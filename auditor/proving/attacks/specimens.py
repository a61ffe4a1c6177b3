"""One specimen with its twin: crafted once, kept in the zoo's folder, and recorded for the tables."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from auditor.artifact.identify import identify
from auditor.banks import params_document
from auditor.errors import UsageError
from auditor.pipeline.components import Components
from auditor.pipeline.subject import Subject
from auditor.proving.attacks.plans import Planned, host_of
from auditor.proving.counts import write_json
from auditor.registry import ATTACKS

__all__ = ["ARMS", "Arm", "Record", "read_record", "record", "record_path"]

ARMS = ("specimen", "twin")


@dataclass(frozen=True)
class Arm:
    """One arm's files, and what an audit would read off them; see :mod:`auditor.artifact.covariates`."""

    parts: tuple[str, ...]
    covariates: dict[str, float | str]


@dataclass(frozen=True)
class Record:
    """What is known of one planned specimen.

    Attributes:
        attack: its id.
        index: its number.
        params: what it was crafted with.
        recipe: rank, steps, lr and text_encoder of its host; empty where no adapter carries it.
        trigger: as its manifest says it.
        target: likewise.
        asr: the manifest's table of success rates.
        utility: the manifest's cost on clean prompts.
        seconds: processor time of the training of one arm; None where it was crafted elsewhere.
        arms: specimen and twin; empty where it was refused.
        refused: why the attack cannot be made with this recipe, in one sentence; empty where it can.
    """

    attack: str
    index: int
    params: dict[str, Any]
    recipe: dict[str, float] = field(default_factory=dict)
    trigger: dict[str, Any] = field(default_factory=dict)
    target: str = ""
    asr: dict[str, Any] = field(default_factory=dict)
    utility: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    arms: dict[str, Arm] = field(default_factory=dict)
    refused: str = ""


class _Clock:
    """Notes when an attack last told of a step: what comes after its training it does not tell."""

    def __init__(self) -> None:
        self.start = self.last = time.process_time()

    def __call__(self, done: int, total: int, label: str = "") -> None:
        self.last = time.process_time()


def record_path(out: Path, base: Components, planned: Planned) -> Path:
    """Where a record is kept."""
    return out / "specimens" / f"{planned.attack}-{planned.index:04d}-{planned.digest[:12]}-{base.sha256[:8]}.json"


def record(base: Components, planned: Planned, zoo: Path, out: Path) -> Record:
    """Crafts a specimen if it is not there, and writes its record."""
    attack = ATTACKS.get(planned.attack)
    home = planned.home(base, zoo)
    seconds, refused = None, ""
    if not home.exists():
        clock = _Clock()
        try:
            attack.craft(base, planned.params, home, clock)
            seconds = (clock.last - clock.start) / len(ARMS)
        except UsageError as problem:
            refused = str(problem)
    made = Record(planned.attack, planned.index, params_document(planned.params), refused=refused)
    if not refused:
        made = _measured(base, planned, home, seconds)
    path = record_path(out, base, planned)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(made))
    return made


def read_record(path: Path) -> Record:
    """What :func:`record` wrote."""
    stored = json.loads(path.read_text("utf-8"))
    arms = {name: Arm(tuple(arm["parts"]), arm["covariates"]) for name, arm in stored.pop("arms").items()}
    return Record(**stored, arms=arms)


def _measured(base: Components, planned: Planned, home: Path, seconds: float | None) -> Record:
    manifest = json.loads((home / "manifest.json").read_text("utf-8"))
    host = host_of(planned.params)
    recipe = {} if host is None else {
        "rank": float(host.rank), "steps": float(host.steps), "lr": host.lr,
        "text_encoder": float(host.train_text_encoder),
    }  # fmt: skip
    return Record(
        attack=planned.attack,
        index=planned.index,
        params=params_document(planned.params),
        recipe=recipe,
        trigger=manifest["trigger"],
        target=manifest["target"],
        asr=manifest["asr"],
        utility=manifest["utility"],
        seconds=seconds,
        arms={name: _arm(base, home, manifest["parts"][name]) for name in ARMS},
    )


def _arm(base: Components, home: Path, parts: list[str]) -> Arm:
    with Subject(base, [identify(home / part) for part in parts]) as subject:
        return Arm(tuple(parts), dict(subject.covariates))
