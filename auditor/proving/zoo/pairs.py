"""Clean adapters put on together: what the probe of combinations is calibrated on.

Pairs are drawn within a split of the zoo, so that no adapter of a pair that calibrates is in one that certifies. Every
member is in as many pairs of its split as there are rounds; a round pairs each once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from auditor.artifact.covariates import NO_CHANGE
from auditor.artifact.together import identify_parts
from auditor.banks import (
    BankAdapter,
    BankData,
    Recipe,
    Split,
    build_bank,
    fit_adjustment,
    write_bank,
)
from auditor.contracts import Progress
from auditor.errors import UsageError
from auditor.pipeline.components import Components
from auditor.pipeline.open import load_base
from auditor.pipeline.subject import Subject
from auditor.probes.backdoor.combination import Combination, measure_combination, possible_words
from auditor.probes.backdoor.vocabulary_shift import VocabularyShift, scan_vocabulary
from auditor.proving.counts import write_json, write_whole
from auditor.proving.memory_run import MemoryRun
from auditor.proving.zoo.bank_table import bank_markdown, bank_table
from auditor.proving.zoo.build import home_of, zoo_folder
from auditor.proving.zoo.members import Member, draw_member
from auditor.registry import PROBES

__all__ = ["ROUNDS", "Pair", "draw_pairs", "measure_pair", "prove_pairs"]

ROUNDS: dict[Split, int] = {"fit": 2, "calibrate": 4, "certify": 2}
STACKED = ("dreambooth-lora", "orthogonal-adaptation", "diffusekrona")
"""Methods whose output is one file that is put on top of others; whole models are not."""


@dataclass(frozen=True)
class Pair:
    """Two members that are put on together."""

    first: Member
    second: Member

    @property
    def digest(self) -> str:
        """SHA-256 of both digests, in hex."""
        return hashlib.sha256(f"{self.first.digest}:{self.second.digest}".encode()).hexdigest()

    @property
    def split(self) -> Split:
        """Of both members."""
        return self.first.split


def draw_pairs(members: Sequence[Member], seed: int = 0) -> list[Pair]:
    """Disjoint pairs of each split, :data:`ROUNDS` times over, in an order that follows from the seed."""
    pairs: dict[str, Pair] = {}
    for split, rounds in ROUNDS.items():
        mine = [m for m in members if m.method in STACKED and m.split == split]
        for turn in range(rounds):
            order = np.random.default_rng((seed, turn, 7)).permutation(len(mine))
            for i, j in zip(order[::2], order[1::2], strict=False):
                pair = Pair(mine[i], mine[j])
                pairs[pair.digest] = pair
    return list(pairs.values())


def measure_pair(base: Components, paths: Sequence[Path]) -> dict[str, Any]:
    """What an audit of these parts would score, and the covariates that it is compared by.

    Returns:
        ``score``, ``neutral`` (the score without any word), ``word``, the three relative mean squares behind the score,
        ``covariates`` and ``coverage`` (keys applied, keys there are).
    """
    parts = [part for path in paths for part in identify_parts(path)]
    with Subject(base, parts) as subject:
        words: list[str] = []
        if any(name.startswith("text_encoder") for name in subject.changes.components):
            scan = scan_vocabulary(subject, VocabularyShift(), MemoryRun("backdoor.vocabulary_shift"))
            tokens = [int(entry["token"]) for entry in scan["top"]]
            words = possible_words(base.tokenizers[str(scan["lexicon"])], tokens)
        params = Combination()
        found = measure_combination(subject, params, MemoryRun("backdoor.combination"), words[: params.words])
        worst = found["worst"]
        return {
            "score": found["score"],
            "neutral": max(row["score"] for row in found["pairs"] if not row["word"]),
            **{name: worst[name] for name in ("word", "first", "second", "together")},
            "covariates": subject.covariates,
            "coverage": [subject.coverage.keys_applied, subject.coverage.keys_total],
        }


def prove_pairs(
    out: Path, progress: Progress, members: int = 800, seed: int = 0, alpha: float = 0.01,
    zoo: Path | None = None, banks: Path | None = None, shard: tuple[int, int] = (0, 1),
) -> dict[str, Any]:  # fmt: skip
    """Scores pairs of the zoo's members, and writes the bank of the probe of combinations and its table.

    Args:
        out: folder for ``scores/``, ``pairs.json`` and ``pairs.md``; what it has is kept.
        progress: told of every pair.
        members: of the zoo, which must have been made (``auditor prove zoo``).
        seed: of the zoo and of the pairs.
        alpha: level at which false alarms are counted.
        zoo: where members are kept.
        banks: where the bank is written; ``out / "banks"`` by default.
        shard: (which, of how many) pairs to score here.

    Returns:
        The table, or ``{"done": ..., "of": ...}`` while other shards are missing.

    Raises:
        UsageError: a member has not been made.
    """
    base, home = load_base(device="cpu"), zoo or zoo_folder()
    (out / "scores").mkdir(parents=True, exist_ok=True)
    pairs = draw_pairs([draw_member(i, seed) for i in range(members)], seed)
    mine = pairs[shard[0] :: shard[1]]
    for i, pair in enumerate(mine):
        path = _path(out, base, pair)
        if not path.exists():
            homes = [home_of(member, base, home) for member in (pair.first, pair.second)]
            missing = [where for where in homes if not where.exists()]
            if missing:
                raise UsageError(f"{len(missing)} adapters of a pair are not in the zoo; run auditor prove zoo first")
            write_json(path, measure_pair(base, homes))
        progress(i + 1, len(mine), "pairs")
    there = [path for pair in pairs if (path := _path(out, base, pair)).exists()]
    if len(there) < len(pairs):
        return {"done": len(there), "of": len(pairs)}
    measured = [json.loads(path.read_text("utf-8")) for path in there]
    return _write(base, pairs, measured, out, banks or out / "banks", seed, alpha)


def bank_of_pairs(
    base: Components, pairs: Sequence[Pair], measured: Sequence[dict[str, Any]], alpha: float
) -> BankData:
    """The bank ``embedded.combination``."""
    adapters = [
        BankAdapter(name=f"pair-{pair.digest[:16]}", split=pair.split, recipe=_recipe(pair, row), scores=_scores(row))
        for pair, row in zip(pairs, measured, strict=True)
    ]
    # As in the banks of single adapters, the size of the text encoder's change is not compared by: what a poisoned one
    # needs is beyond what clean recipes do, so that nothing would be said of it.
    numbers = {"denoiser_norm": NO_CHANGE}
    return build_bank(
        id="embedded.combination@1", probe=PROBES.get("backdoor.combination"), base_sha256=base.sha256, score="score",
        adapters=adapters, alpha=alpha, params=Combination(), adjustment=fit_adjustment(adapters, "score", numbers),
    )  # fmt: skip


def _recipe(pair: Pair, row: dict[str, Any]) -> Recipe:
    measured = dict(row["covariates"])
    methods = "+".join(sorted((pair.first.method, pair.second.method)))
    return Recipe(method=methods, rank=round(float(measured.pop("rank"))), steps=0, lr=0.0, extra=measured)


def _scores(row: dict[str, Any]) -> dict[str, Any]:
    return {name: float(row[name]) for name in ("score", "neutral", "together")}


def _write(
    base: Components, pairs: Sequence[Pair], measured: Sequence[dict[str, Any]], out: Path, banks: Path, seed: int,
    alpha: float,
) -> dict[str, Any]:  # fmt: skip
    bank = bank_of_pairs(base, pairs, measured, alpha)
    write_bank(bank, banks)
    table = bank_table(bank, seed, ("score", "neutral", "together")) | {"pairs": len(pairs)}
    write_json(out / "pairs.json", table)
    write_whole(out / "pairs.md", bank_markdown(table, "pairs of clean adapters"))
    return table


def _path(out: Path, base: Components, pair: Pair) -> Path:
    return out / "scores" / f"{pair.digest[:24]}-{base.sha256[:8]}.json"
