"""All attacks planted and measured, and the table of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from auditor.contracts import Progress
from auditor.pipeline.open import load_base
from auditor.proving.attacks.plans import measurable, plan
from auditor.proving.attacks.recipe_only import clean_rows, judge_recipes
from auditor.proving.attacks.specimens import read_record, record, record_path
from auditor.proving.attacks.tables import write_attacks
from auditor.proving.zoo.build import zoo_folder
from auditor.registry import ATTACKS

__all__ = ["prove_attacks"]


def prove_attacks(
    out: Path, progress: Progress, specimens: int = 2, seed: int = 0, attacks: str = "", pairs: int = 0,
    zoo: Path | None = None, shard: tuple[int, int] = (0, 1),
) -> dict[str, Any]:  # fmt: skip
    """Crafts specimens of every attack with their twins, and writes the table; what is there already is kept.

    Args:
        out: folder for ``specimens/``, ``attacks.json``, ``attacks.csv`` and ``attacks.md``.
        progress: told of every specimen.
        specimens: of each attack.
        seed: of all recipes.
        attacks: ids with commas; all registered ones by default.
        pairs: pictures for the utility of the first two specimens of each attack; 0 for as many as the attack says.
        zoo: where specimens are kept; :func:`auditor.proving.zoo.build.zoo_folder` by default.
        shard: (which, of how many) specimens to make here; the table is written by the process that finds all done.

    Returns:
        The table, or ``{"done": ..., "of": ...}`` while other shards are missing.

    Raises:
        UsageError: an unknown attack.
    """
    base, home = load_base(device="cpu", dtype=torch.float32), zoo or zoo_folder()
    names = measurable(attacks)
    # Specimen by specimen, so that a run that is stopped has something of each attack.
    planned = [plan(name, index, seed, pairs) for index in range(specimens) for name in names]
    for done, one in enumerate(planned):
        progress(done, len(planned), one.attack)
        if done % shard[1] == shard[0] and not record_path(out, base, one).exists():
            record(base, one, home, out)
    progress(len(planned), len(planned), "specimens")
    paths = [path for one in planned if (path := record_path(out, base, one)).exists()]
    if len(paths) < len(planned):
        return {"done": len(paths), "of": len(planned)}
    records = sorted((read_record(path) for path in paths), key=lambda r: (names.index(r.attack), r.index))
    recipes = judge_recipes(records, clean_rows(base, home, out))
    left_out = [] if attacks else [name for name in ATTACKS.names() if name not in names]
    return write_attacks(out, records, left_out, recipes, {"seed": seed, "base_sha256": base.sha256})
