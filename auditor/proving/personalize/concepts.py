"""Two concepts in one picture: adapters made to be added, and plain ones, put together and drawn with.

CP-CLIP and TI-CLIP (Gen4Gen, Yeh et al., BMVC 2025, arXiv 2402.15504), rebuilt on the embedded dual encoder. CP asks
of every concept whether it is somewhere in the picture and how alike it is there; a concept that is missing counts 0.
TI is likeness to the prompt; a model that draws one memorised composition whatever is asked has the same TI with the
other prompts. The paper's open-vocabulary detector is the judge here, on fixed windows.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from auditor.artifact.identify import identify
from auditor.contracts import Progress
from auditor.engine.files import whole_folder
from auditor.errors import CoverageError
from auditor.metrics.attributes import judge_images
from auditor.metrics.concept import image_features, similarity
from auditor.personalize.blocks.examples import Examples
from auditor.personalize.blocks.layers.adapted import adapted
from auditor.personalize.blocks.layers.low_rank import LowRankChange
from auditor.personalize.blocks.losses import denoising_loss
from auditor.personalize.blocks.merging import MERGE_WEIGHT, Factors, merge
from auditor.personalize.blocks.optimise import Group, Optimisation, optimise
from auditor.personalize.orthogonal_adaptation import (
    LAYERS,
    OrthogonalAdaptation,
    save_factors,
    train_orthogonal,
)
from auditor.pipeline.components import Components
from auditor.pipeline.subject import Subject
from auditor.proving.personalize.opened import Draw, of_view, on_base
from auditor.proving.personalize.recipes import RECIPES, SAMPLER_STEPS
from auditor.proving.personalize.shelf import digest, kept_record
from auditor.proving.personalize.targets import Target, object_target
from auditor.world.factors import GROUNDS, RELATIONS
from auditor.world.render import render_batch, render_images

__all__ = [
    "ARMS", "CONCEPT_MEASURES", "Pair", "composition", "generalisation", "pair_path", "pair_record", "pairs", "windows",
]  # fmt: skip

CONCEPT_MEASURES = ("cp", "both", "ti", "gap")
WEIGHTS = (MERGE_WEIGHT, 1.0)
ARMS = (
    "the base",
    *(f"{kind}, added at {weight:g}" for kind in ("orthogonal", "plain") for weight in WEIGHTS),
)
_PER_PROMPT = 2
_WINDOW = 36
_CORNERS = ((14, 0), (14, 28), (0, 14), (28, 14))
"""Rows and columns where things stand in pictures of pairs: left, right, above, below."""


@dataclass(frozen=True)
class Pair:
    """Two concepts, and the seed of their trainings and pictures."""

    concepts: tuple[int, int]
    seed: int

    @property
    def name(self) -> str:
        """In file names and progress."""
        return f"concepts-{self.concepts[0] + 1}-{self.concepts[1] + 1}-{self.seed}"


def concepts() -> tuple[Target, ...]:
    """Three objects, each in one colour under a rare word of its own."""
    return (
        object_target("concept-1", "sks", "fish", "purple", 91),
        object_target("concept-2", "ohwx", "cup", "red", 92),
        object_target("concept-3", "zwx", "tree", "orange", 93),
    )


def pairs(seeds: int) -> list[Pair]:
    """Every two of the three, for each seed."""
    return [Pair(two, seed) for seed in range(seeds) for two in ((0, 1), (1, 2), (2, 0))]


def pair_path(base: Components, out: Path, pair: Pair) -> Path:
    """Where a pair's record lies: another base, recipe or way of measuring is another file."""
    return out / "concepts" / f"{pair.name}-{_digest(base)}.json"


def pair_record(base: Components, out: Path, pair: Pair, progress: Progress) -> dict[str, Any]:
    """A pair's record, arm to measures; made if it is not there yet.

    Raises:
        CoverageError: not all keys of a merged adapter arrived.
    """
    shelf = out / "adapters" / _digest(base)
    return kept_record(pair_path(base, out, pair), lambda: _measured(base, shelf, pair, progress))


def _digest(base: Components) -> str:
    recipe = dict(RECIPES["orthogonal-adaptation"].changes)
    return digest(
        base.sha256, recipe, WEIGHTS, _PER_PROMPT, SAMPLER_STEPS, [asdict(each) for each in concepts()]
    )


def _measured(base: Components, shelf: Path, pair: Pair, progress: Progress) -> dict[str, Any]:
    two = [concepts()[i] for i in pair.concepts]
    said, plain = _prompts(two)
    seeds = [1000 * pair.seed + i for i in range(len(said) * _PER_PROMPT)]
    shots = [prompt for prompt in said for _ in range(_PER_PROMPT)]
    found: dict[str, Any] = {"concepts": [each.name for each in two], "seed": pair.seed, "prompts": said}
    with on_base(base) as draw:
        found[ARMS[0]] = _scores(draw(shots, seeds, None), two, plain)
    for kind in ("orthogonal", "plain"):
        files = [_adapter(base, shelf, kind, i, pair.seed, progress) for i in pair.concepts]
        for weight in WEIGHTS:
            with _added(base, files, weight, shelf / f"{pair.name}-{kind}") as draw:
                found[f"{kind}, added at {weight:g}"] = _scores(draw(shots, seeds, None), two, plain)
    return found


def _prompts(two: Sequence[Target]) -> tuple[list[str], list[str]]:
    """Both concepts in every place and on every ground: with their rare words, and in plain ones."""
    said, plain = [], []
    for relation in RELATIONS:
        for ground in GROUNDS:
            where = f"on a {ground} ground"
            names = [f"{each.identifier} {each.noun}" for each in two]
            said.append(f"a picture of {f' {relation} '.join(names)} {where}")
            plain.append(f"a {two[0].noun} {relation} a {two[1].noun} {where}")
    return said, plain


def _scores(pixels: np.ndarray, two: Sequence[Target], plain: Sequence[str]) -> dict[str, float]:
    crops = windows(pixels)
    names = np.stack([np.array(judge_images(part).names("object")) for part in crops], axis=1)
    features = np.stack([image_features(part) for part in crops], axis=1)
    wanted = [(each.noun, image_features(render_batch(each.held))) for each in two]
    cp, both = composition(names, features, wanted)
    asked = np.repeat(np.arange(len(plain)), _PER_PROMPT)
    ti, gap = generalisation(similarity(pixels, plain), asked)
    return {"cp": cp, "both": both, "ti": ti, "gap": gap}


def windows(pixels: np.ndarray) -> list[np.ndarray]:
    """The whole pictures (N, 64, 64, 3), and four windows (N, 36, 36, 3) where things of a pair stand."""
    cut = [pixels[:, row : row + _WINDOW, column : column + _WINDOW] for row, column in _CORNERS]
    return [pixels, *(np.ascontiguousarray(part) for part in cut)]


def composition(
    names: np.ndarray, features: np.ndarray, wanted: Sequence[tuple[str, np.ndarray]]
) -> tuple[float, float]:
    """CP-CLIP, and the share of pictures in which no concept is missing.

    Args:
        names: str (N, K), what the judge reads in each window.
        features: unit vectors (N, K, D) of the windows.
        wanted: of each concept its name and the unit vectors (M, D) of its own pictures.

    Returns:
        Mean over pictures and concepts of the best window's mean cosine with the concept's pictures, among windows
        read as the concept; 0 where there is none. And the share.
    """
    scores, there = [], []
    for name, references in wanted:
        read = names == name
        alike = (features @ references.T).mean(axis=2)
        best = np.where(read, alike, -np.inf).max(axis=1)
        there.append(read.any(axis=1))
        scores.append(np.where(read.any(axis=1), np.maximum(best, 0.0), 0.0))
    return float(np.mean(scores)), float(np.all(there, axis=0).mean())


def generalisation(scores: np.ndarray, asked: np.ndarray) -> tuple[float, float]:
    """TI-CLIP, and how far it is above the mean over the other prompts.

    Args:
        scores: cosines (N, P) of pictures with prompts.
        asked: int (N,), which prompt each picture was drawn from.
    """
    rows, count = np.arange(len(scores)), scores.shape[1]
    own = scores[rows, asked]
    others = (scores.sum(axis=1) - own) / (count - 1)
    return float(own.mean()), float((own - others).mean())


@contextmanager
def _added(base: Components, files: Sequence[Path], weight: float, work: Path) -> Iterator[Draw]:
    """Draws with adapters added into one file, which is opened as any other."""
    shutil.rmtree(work, ignore_errors=True)
    try:
        path = save_factors(work, merge([_factors(file) for file in files], weight), {})
        with Subject(base, [identify(path)]) as subject:
            if not subject.coverage.full:
                raise CoverageError(subject.coverage.note)
            yield of_view(subject.tuned)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _factors(path: Path) -> dict[str, tuple[Tensor, Tensor]]:
    stored = load_file(path)
    ends = (".lora_A.weight", ".lora_B.weight")
    paths = sorted(
        {key.removeprefix("unet.").removesuffix(ends[0]) for key in stored if key.endswith(ends[0])}
    )
    return {name: (stored[f"unet.{name}{ends[0]}"], stored[f"unet.{name}{ends[1]}"]) for name in paths}


def _adapter(base: Components, shelf: Path, kind: str, index: int, seed: int, progress: Progress) -> Path:
    """The file of one concept's adapter, trained if it is not there yet."""
    folder = shelf / f"{kind}-{index + 1}-{seed}"
    path = folder / "pytorch_lora_weights.safetensors"
    if path.exists():
        return path
    target = concepts()[index]
    pixels = render_images(target.train)
    prompt = f"a picture of {target.identifier} {target.noun}"
    examples = Examples.of(base, pixels, [prompt] * len(pixels))
    changes = dict(RECIPES["orthogonal-adaptation"].changes)
    params = OrthogonalAdaptation(**changes, prompt=prompt, slot=index, seed=seed)
    make = _orthogonal if kind == "orthogonal" else _plain
    # Another process that was faster made the same.
    with whole_folder(folder, shared=True) as part:
        save_factors(part, make(base, examples, params, progress), {"modelspec.trigger_phrase": prompt})
    return path


def _orthogonal(
    base: Components, examples: Examples, params: OrthogonalAdaptation, progress: Progress
) -> Factors:
    return train_orthogonal(base, examples, params, progress).factors


def _plain(base: Components, examples: Examples, params: OrthogonalAdaptation, progress: Progress) -> Factors:
    """The off switch: the same layers, rank, steps and rate; the input factor is each adapter's own, and trained."""
    # Two makers of plain adapters know nothing of each other: no two concepts start alike.
    generator = torch.Generator().manual_seed(1000 * params.seed + params.slot)

    def make(_: str, layer: nn.Linear) -> LowRankChange:
        down = torch.randn(params.rank, layer.in_features, generator=generator) / layer.in_features**0.5
        return LowRankChange(down, layer.out_features)

    with adapted(base.unet, LAYERS, make) as changes:
        groups = [Group("lora", [p for change in changes.values() for p in change.parameters()])]
        loss = denoising_loss(base, examples, params.batch)
        optimise(groups, loss, Optimisation(params.steps, params.lr, seed=params.seed), progress)
        down, up = (
            {path: change.get_parameter(name).detach().cpu().clone() for path, change in changes.items()}
            for name in ("down", "up")
        )
        return {path: (down[path], up[path]) for path in changes}
