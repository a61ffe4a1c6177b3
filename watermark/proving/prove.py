"""All units of the table done or found done, one after the other, and the table of what there is."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from auditor.contracts import Progress
from auditor.errors import MalformedArtifact, UsageError
from auditor.pipeline.open import load_base
from auditor.pipeline.subject import Subject
from auditor.proving.counts import write_json
from auditor.proving.zoo.build import zoo_folder
from auditor.registry import WATERMARKS
from auditor.text import did_you_mean, inert
from watermark.proving.bench import STEPS, Bench
from watermark.proving.marks import members_of
from watermark.proving.rival import Peer, find_rival, rivals_at
from watermark.proving.tables import write_watermark
from watermark.proving.units import Amounts, Unit, strength_of, units_at
from watermark.removal.attack import Removal
from watermark.removal.catalogue import removals
from watermark.scheme import LatentScheme

__all__ = ["COMPARED_AT", "SIZES", "prove_watermark"]

SIZES = (128, 64)
COMPARED_AT = 128
"""Pixels at which the other toolkit is run: its masks are too coarse for fewer latents."""


def prove_watermark(
    out: Path,
    progress: Progress,
    *,
    schemes: str = "",
    sizes: Sequence[int] = SIZES,
    amounts: Amounts = Amounts(),  # noqa: B008
    seed: int = 0,
    peers_python: Path | None = None,
    zoo: Path | None = None,
    shard: tuple[int, int] = (0, 1),
    work: bool = True,
) -> dict[str, Any]:
    """Does what is not done yet, writing the table anew after each round.

    Args:
        out: folder for ``units/``, ``pictures/`` and ``watermark.json``, ``.csv`` and ``.md``.
        progress: told in seconds of one core, so that the time that is left is proportional to what is left.
        schemes: ids with commas; all registered ones by default.
        sizes: pixels of a side.
        amounts: of pictures, nulls and models.
        seed: of every draw.
        peers_python: interpreter that has the other toolkit; this one by default. Without it, it is left out.
        zoo: where adapted models are kept; :func:`auditor.proving.zoo.build.zoo_folder` by default.
        shard: (which, of how many) units to do here.
        work: whether to do anything, or only to write the table of what is done.

    Returns:
        What ``watermark.json`` holds.

    Raises:
        UsageError: an unknown scheme, or a folder that was begun with another seed.
        OutputError: ``out`` cannot be written.
    """
    chosen, left_out = _schemes(schemes)
    base = load_base(device="cpu", dtype=torch.float32)
    _same_run(out, {"seed": seed, "base_sha256": base.sha256})
    members = members_of(base, zoo or zoo_folder(), amounts.members)
    version = find_rival(peers_python)
    with Subject(base, ()) as subject, ExitStack() as open_peers:
        units: list[Unit] = []
        compared: list[Peer] = []
        # Attacks that leave latents where they are come first: the others find little without a search.
        attacks = sorted(removals(subject.base).values(), key=lambda attack: attack.moves)
        for size in sizes:
            bench = Bench(subject.base, out, size, seed)
            able = [scheme for scheme in chosen if _runs(scheme, bench, left_out)]
            peers = _peers(bench, able, peers_python) if version and size == COMPARED_AT else []
            compared += [open_peers.enter_context(peer) for peer, _ in peers]
            units += units_at(bench, able, attacks, members, peers, amounts)
        # Sizes in turn, round by round.
        units.sort(key=lambda unit: unit.turn)
        context = {
            "seed": seed,
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "base_sha256": base.sha256,
            "sampler": f"DDIM, {STEPS} steps; inverted with the base, the empty prompt and no guidance",
            "left out": "; ".join(f"{name}: {why}" for name, why in sorted(left_out.items())) or "none",
            "strengths": ", ".join(f"{attack.id} {strength_of(attack):g}" for attack in attacks),
            "rival": f"MarkDiffusion {version}" if version else "not run: not installed in that interpreter",
            "told to detectors": "ours: the key, and for 'log' the nonces of the chunk, but no payload; the other "
            "toolkit's: the key, the one nonce of all pictures, and the message",
            "rival thresholds": "at 1 % on unmarked pictures, without its own p-values, which say "
            "nothing for rings of zeros and are not offered for its other schemes",
            "rival configured": {peer.rival.id: peer.rival.config for peer in compared},
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }
        return _work(out, units, attacks, context, progress, shard, work)


def _work(
    out: Path,
    units: Sequence[Unit],
    attacks: Sequence[Removal],
    context: dict[str, Any],
    progress: Progress,
    shard: tuple[int, int],
    work: bool,
) -> dict[str, Any]:
    total, done = round(sum(unit.seconds for unit in units)), 0.0
    turn = 0
    for i, unit in enumerate(units):
        progress(round(done), total, f"{unit.kind} {unit.label} {unit.scheme} {unit.size}".replace("  ", " "))
        if work and i % shard[1] == shard[0] and not unit.path.exists():
            if unit.turn > turn:
                turn = unit.turn
                _publish(out, units, attacks, context)
            write_json(unit.path, unit.make())
        done += unit.seconds
    progress(total, total, "table")
    return _publish(out, units, attacks, context)


def _publish(
    out: Path, units: Sequence[Unit], attacks: Sequence[Removal], context: dict[str, Any]
) -> dict[str, Any]:
    records = [(unit, _record(unit.path)) for unit in units if unit.path.exists()]
    return write_watermark(
        out, records, attacks, {**context, "units": f"{len(records)} of {len(units)} done"}
    )


def _record(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise MalformedArtifact(f"the record '{inert(str(path), 300)}' is broken; delete it") from error
    return found


def _schemes(names: str) -> tuple[list[LatentScheme], dict[str, str]]:
    """Schemes that embed in starting latents, and the others with the reason why they are left out."""
    known = WATERMARKS.names()
    asked = [name.strip() for name in names.split(",") if name.strip()] or known
    chosen: list[LatentScheme] = []
    left_out: dict[str, str] = {}
    for name in asked:
        if name not in known:
            raise UsageError(
                f"unknown scheme '{inert(name)}'{did_you_mean(name, known)}; there are {', '.join(known)}"
            )
        found: Any = WATERMARKS.get(name)
        if isinstance(found, LatentScheme) and found.embed_point == "latents":
            chosen.append(found)
        else:
            left_out[name] = f"embeds in {found.embed_point}"
    return chosen, left_out


def _runs(scheme: LatentScheme, bench: Bench, left_out: dict[str, str]) -> bool:
    try:
        scheme.capacity(bench.shape)
    except UsageError as error:
        left_out[f"{scheme.id} at {bench.name}"] = str(error)
        return False
    return True


def _peers(
    bench: Bench, schemes: Sequence[LatentScheme], python: Path | None
) -> list[tuple[Peer, LatentScheme]]:
    by_id = {scheme.id: scheme for scheme in schemes}
    return [
        (Peer(bench, rival, python), by_id[rival.ours])
        for rival in rivals_at(bench.shape[1])
        if rival.ours in by_id
    ]


def _same_run(out: Path, run: dict[str, Any]) -> None:
    path = out / "run.json"
    if not path.exists():
        write_json(path, run)
    elif _record(path) != run:
        raise UsageError(f"'{inert(str(out), 300)}' was begun with another seed or base; choose another folder")
