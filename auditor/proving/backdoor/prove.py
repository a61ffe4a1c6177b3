"""Every planted specimen and its twin audited, and the tables of what was found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from auditor.banks import BankData, bank_for
from auditor.contracts import Progress
from auditor.errors import UsageError
from auditor.pipeline.components import Components
from auditor.pipeline.open import load_base
from auditor.proving.attacks.plans import Planned, measurable, plan
from auditor.proving.backdoor.audited import Audited, audited
from auditor.proving.backdoor.tables import Case, write_backdoor
from auditor.proving.counts import quiet, write_json
from auditor.proving.zoo.build import zoo_folder
from auditor.registry import ATTACKS, PROBES

__all__ = ["prove_backdoor"]

SINGLE = ("backdoor.vocabulary_shift", "behaviour.drift")
"""Probes that judge one adapter."""


def prove_backdoor(
    out: Path, progress: Progress, specimens: int = 2, seed: int = 0, attacks: str = "", zoo: Path | None = None,
    shard: tuple[int, int] = (0, 1),
) -> dict[str, Any]:  # fmt: skip
    """Audits specimens of every attack and their twins; what ``out`` has already is kept.

    Specimens are those of ``auditor prove attacks`` with the same seed, and are made where they are not there.

    Args:
        out: folder for ``audits/``, ``backdoor.json``, ``backdoor.csv`` and ``backdoor.md``.
        progress: told of every specimen.
        specimens: of each attack.
        seed: of all recipes.
        attacks: ids with commas; all that craft specimens by default.
        zoo: where specimens are kept.
        shard: (which, of how many) specimens to audit here; the tables are written by the process that finds all done.

    Returns:
        The table, or ``{"done": ..., "of": ...}`` while other shards are missing.

    Raises:
        UsageError: an unknown attack, or no bank for the embedded base.
    """
    base, home = load_base(device="cpu", dtype=torch.float32), zoo or zoo_folder()
    banks = _banks(base)
    planned = [plan(name, index, seed) for index in range(specimens) for name in measurable(attacks)]
    for done, one in enumerate(planned):
        progress(done, len(planned), one.attack)
        path = _path(out, base, one)
        if done % shard[1] == shard[0] and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, _audit(base, one, home))
    progress(len(planned), len(planned), "specimens")
    there = [path for one in planned if (path := _path(out, base, one)).exists()]
    if len(there) < len(planned):
        return {"done": len(there), "of": len(planned)}
    stored = [json.loads(path.read_text("utf-8")) for path in there]
    refused = {each["attack"]: str(each["refused"]) for each in stored if each.get("refused")}
    cases = [_case(each) for each in stored if not each.get("refused")]
    order = list(dict.fromkeys(one.attack for one in planned))
    cases.sort(key=lambda case: (order.index(case.attack), case.index))
    return write_backdoor(out, cases, banks, refused, {"seed": seed, "base_sha256": base.sha256})


def _banks(base: Components) -> Sequence[BankData]:
    found = []
    for name in SINGLE:
        probe = PROBES.get(name)
        bank = bank_for(probe, base.sha256, probe.params())
        if bank is None:
            raise UsageError(f"there is no bank for '{name}' on this base; make it first (auditor prove zoo)")
        found.append(bank)
    return found


def _audit(base: Components, one: Planned, zoo: Path) -> dict[str, Any]:
    folder = one.home(base, zoo)
    if not folder.exists():
        try:
            ATTACKS.get(one.attack).craft(base, one.params, folder, quiet)
        except UsageError as problem:
            return {"attack": one.attack, "index": one.index, "refused": str(problem)}
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    arms = {
        arm: asdict(audited(base, [folder / part for part in manifest["parts"][arm]])) for arm in ("specimen", "twin")
    }
    woken = manifest["asr"].get("cells", {}).get("specimen, triggered", {})
    return {
        "attack": one.attack,
        "index": one.index,
        "trigger": str(manifest["trigger"].get("text", "")),
        "target": manifest["target"],
        "asr": woken.get("rate"),
        **arms,
    }


def _case(stored: dict[str, Any]) -> Case:
    arms = {name: Audited.read(stored[name]) for name in ("specimen", "twin")}
    return Case(**(stored | arms))


def _path(out: Path, base: Components, one: Planned) -> Path:
    return out / "audits" / f"{one.attack}-{one.index:04d}-{one.digest[:12]}-{base.sha256[:8]}.json"
