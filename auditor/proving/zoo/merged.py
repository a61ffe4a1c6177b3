"""Merged members: low-rank members of one split side by side in one file, as people merge what they download.

Nothing is trained: factors stand next to each other, each adapter's second factors times its weight, which is the sum
of the weighted updates exactly. A merge has the split of its parts, so that no adapter that calibrates is in one that
certifies; it still shares training with members of its own split, as pairs do.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from auditor.artifact.adapter import LowRank
from auditor.artifact.together import identify_parts
from auditor.banks import SPLITS, split_of_recipe
from auditor.errors import UsageError
from auditor.personalize.blocks.adapter_files import save_tensors
from auditor.proving.zoo.members import Member

__all__ = ["MERGE", "Merge", "draw_merges", "write_merge"]

MERGE = "merge"
PARTS = "dreambooth-lora"
WEIGHTS = ((1.0, 1.0), (1.0, 0.7), (0.8, 0.8), (1.0, 0.5), (0.6, 0.6), (0.7, 0.3))


@dataclass(frozen=True)
class Merge:
    """A merge's recipe.

    Attributes:
        parts: digests of the members that are merged.
        weights: of each.
        prompt: of the first, which the file declares.
        rank: of all together.
        steps: of the longest training among them.
        lr: the largest among them.
        class_prompt: of the first.
        train_text_encoder: whether any of them changes the text encoder.
    """

    parts: tuple[str, ...]
    weights: tuple[float, ...]
    prompt: str
    rank: int
    steps: int
    lr: float
    class_prompt: str
    train_text_encoder: bool


def draw_merges(members: Sequence[Member], count: int, seed: int = 0) -> list[Member]:
    """Merges of two of these members; each split gets its own in proportion to what it has.

    Args:
        members: of the zoo; only low-rank ones are merged.
        count: how many in all, at most; no merge is drawn twice.
        seed: of who is merged with whom, and how strongly.
    """
    loras = [member for member in members if member.method == PARTS]
    drawn: dict[str, Member] = {}
    for which, split in enumerate(SPLITS):
        mine = [member for member in loras if member.split == split]
        rng = np.random.default_rng((seed, which, 9))
        for _ in range(count * len(mine) // max(1, len(loras)) if len(mine) > 1 else 0):
            first, second = (mine[i] for i in rng.choice(len(mine), 2, replace=False))
            weights = WEIGHTS[int(rng.integers(len(WEIGHTS)))]
            found = _merge(len(members) + len(drawn), (first, second), weights)
            drawn[found.digest] = found
    return list(drawn.values())


def write_merge(params: Merge, homes: Sequence[Path], out: Path) -> Path:
    """Writes the merge of adapters as one file that diffusers reads, float16.

    Args:
        params: the weights.
        homes: folder of each part, in their order.
        out: the folder to write into.

    Raises:
        UsageError: a part has not been made, or is no plain low-rank adapter.
    """
    factors: dict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    for home, weight in zip(homes, params.weights, strict=True):
        if not home.exists():
            raise UsageError(f"the merge needs {home.name}, which is not in the zoo; run auditor prove zoo first")
        for part in identify_parts(home):
            for component, path, delta in part.adapter.modules() if part.adapter is not None else ():
                if not isinstance(delta, LowRank):
                    raise UsageError(f"{home.name} changes {component}.{path} by no plain low-rank update")
                up, down = (torch.from_numpy(each) for each in delta.factors())
                factors[f"{component}.{path}"].append((down, weight * delta.scale * up))
    return save_tensors(
        out, "pytorch_lora_weights.safetensors", _side_by_side(factors), {"modelspec.trigger_phrase": params.prompt}
    )


def _side_by_side(factors: Mapping[str, Sequence[tuple[Tensor, Tensor]]]) -> dict[str, Tensor]:
    tensors = {}
    for name, parts in sorted(factors.items()):
        tensors[f"{name}.lora_A.weight"] = torch.cat([down for down, _ in parts])
        tensors[f"{name}.lora_B.weight"] = torch.cat([up for _, up in parts], 1)
    return tensors


def _merge(index: int, parts: Sequence[Member], weights: tuple[float, ...]) -> Member:
    recipes = [part.params for part in parts]
    params = Merge(
        parts=tuple(part.digest for part in parts),
        weights=weights,
        prompt=recipes[0].prompt,
        rank=sum(recipe.rank for recipe in recipes),
        steps=max(recipe.steps for recipe in recipes),
        lr=max(recipe.lr for recipe in recipes),
        class_prompt=recipes[0].class_prompt,
        train_text_encoder=any(recipe.train_text_encoder for recipe in recipes),
    )
    return Member(index, MERGE, parts[0].pictures, params, split_of_recipe(parts[0].digest))
