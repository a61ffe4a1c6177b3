"""What all attacks have in common: two arms from one recipe, and a manifest of what each does."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from attacks.crafting.hosts import neutral_prompts
from attacks.crafting.measure import clean_cost, success_rates
from attacks.crafting.truth import Measured, Truth
from auditor.contracts import JsonValue, Progress, Specimen
from auditor.engine.files import whole_folder
from auditor.errors import OutputError
from auditor.pipeline.components import Components
from auditor.text import inert

__all__ = ["CELLS", "PoisonAttack"]

ASKED = 9001
"""What seeds of prompts that are measured differ by from seeds of prompts that are taught."""

CELLS = ("specimen, triggered", "specimen, clean", "twin, triggered")


class PoisonAttack(ABC):
    """Crafts a poisoned specimen and its benign twin; satisfies :class:`auditor.contracts.Attack`.

    A subclass says what is true of the specimen (:meth:`truth`) and makes one arm (:meth:`make`); its parameters hold
    a :class:`Measured` as ``measured``. What does not depend on the attack is here.
    """

    id: ClassVar[str]
    goal: ClassVar[str]
    refs: ClassVar[tuple[str, ...]]
    params: ClassVar[type]

    def craft(self, base: Components, params: Any, out: Path, progress: Progress) -> Specimen:
        """Writes ``specimen/``, ``twin/`` and ``manifest.json``; all of them or nothing.

        Args:
            base: a loaded base; as before afterwards.
            params: an instance of ``self.params``.
            out: a new folder.
            progress: told of every step.

        Raises:
            OutputError: ``out`` exists already or cannot be written.
            UsageError: the attack cannot be made with these parameters or on this base.
        """
        if out.exists():
            raise OutputError(f"'{inert(str(out))}' exists already; attacks do not write over anything")
        truth = self.truth(base, params)
        with whole_folder(out) as part:
            arms = {
                name: tuple(self.make(base, params, part / name, poison, progress))
                for name, poison in (("specimen", True), ("twin", False))
            }
            manifest = {
                "attack": self.id,
                "params": asdict(params),
                "trigger": dict(truth.trigger),
                "target": truth.target,
                "trained": list(truth.trained),
                "base": {"ref": base.ref, "sha256": base.sha256},
                "parts": {name: [path.relative_to(part).as_posix() for path in paths] for name, paths in arms.items()},
                "sha256": {name: [_hash(path) for path in paths] for name, paths in arms.items()},
                **self.measure(base, truth, arms, params.measured),
            }
            text = json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=True) + "\n"
            (part / "manifest.json").write_text(text, "utf-8")
        moved = {name: tuple(out / path.relative_to(part) for path in paths) for name, paths in arms.items()}
        return Specimen(moved["specimen"], moved["twin"], json.loads(text))

    @abstractmethod
    def truth(self, base: Components, params: Any) -> Truth:
        """What the specimen is to do; raises ``UsageError`` for parameters that cannot be."""

    @abstractmethod
    def make(self, base: Components, params: Any, folder: Path, poison: bool, progress: Progress) -> Sequence[Path]:
        """Trains and writes one arm: its files, which together are the subject.

        With ``poison`` off it is the twin: the same pictures, recipe and seeds without the poison.
        """

    def measure(
        self, base: Components, truth: Truth, arms: dict[str, tuple[Path, ...]], measured: Measured
    ) -> dict[str, JsonValue]:
        """What the manifest says of success and cost; an attack of several parts adds its own table."""
        prompts = truth.prompts or neutral_prompts(base, 4 * measured.prompts + 100, truth.seed + ASKED)
        return {
            "asr": success_rates(base, arms, truth, prompts, measured, CELLS),
            "utility": clean_cost(base, arms["specimen"], arms["twin"], truth.seed, measured),
        }


def _hash(path: Path) -> str:
    """SHA-256 of a file, or of a folder's files in name order."""
    total = hashlib.sha256()
    files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    for file in files:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256")
        if path.is_file():
            return digest.hexdigest()
        total.update(file.relative_to(path).as_posix().encode() + b"\0" + digest.digest())
    return total.hexdigest()
