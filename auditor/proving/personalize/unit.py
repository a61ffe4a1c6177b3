"""One unit of the table: a method, a target and a seed; trained, saved, opened again, drawn with and measured."""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from auditor.contracts import Progress
from auditor.metrics.attributes import judge_images
from auditor.metrics.concept import image_features
from auditor.metrics.identity import embed
from auditor.pipeline.components import Components
from auditor.proving.counts import write_whole
from auditor.proving.personalize.measures import distance, followed, likeness, spread
from auditor.proving.personalize.opened import Draw, on_base, opened
from auditor.proving.personalize.recipes import RECIPES, SAMPLER_STEPS, Recipe, params_of, prompt_of
from auditor.proving.personalize.shelf import digest, kept_pictures, kept_record
from auditor.proving.personalize.targets import LARGE, Target
from auditor.proving.personalize.training import train
from auditor.world.embedded import guidance_of
from auditor.world.render import render_batch

__all__ = ["MEASURES", "Shots", "Unit", "Workbench", "measured", "shots_of"]

MEASURES = ("identity", "style", "image", "prompt", "drift")
"""In records: identity cosine, share in the style, dual-encoder cosine, share of asked attributes, distance."""

OWN, PER_ASK, CLASS = 6, 2, 6
"""Pictures of the own prompt, of each composition, of the class prompts."""
TILE = 128


@dataclass(frozen=True)
class Unit:
    """A method, a target and the seed of training and pictures."""

    method: str
    target: Target
    seed: int

    @property
    def name(self) -> str:
        """In file names and progress."""
        return f"{self.method}-{self.target.name}-{self.seed}"


@dataclass(frozen=True)
class Shots:
    """Prompts with a seed each: of the own prompt, of compositions (with what each wants), of the class."""

    own: tuple[tuple[str, int], ...]
    asked: tuple[tuple[str, int], ...]
    wanted: tuple[Mapping[str, str], ...]
    plain: tuple[tuple[str, int], ...]
    size: int | None


def shots_of(recipe: Recipe, target: Target, seed: int, *, trained: bool) -> Shots:
    """What is drawn; before and after training the same, but for how a learned word is spelled."""
    said, first = recipe.own(target, trained=trained), 1000 * seed
    size = target.kind == "size"
    per_ask = 1 if size else PER_ASK
    asks = [(each, i) for each in target.asks for i in range(per_ask)]
    classes = target.class_prompts
    return Shots(
        own=()
        if size
        else tuple((prompt_of(recipe, target, trained=trained), first + i) for i in range(OWN)),
        asked=tuple((ask.text.format(**said), first + 100 + i) for i, (ask, _) in enumerate(asks)),
        wanted=tuple(ask.wanted for ask, _ in asks),
        plain=tuple((classes[i % len(classes)], first + 200 + i) for i in range(CLASS)),
        size=LARGE if size else None,
    )


@dataclass(frozen=True)
class Workbench:
    """The base and the folder that everything goes to."""

    base: Components
    out: Path

    def path_of(self, unit: Unit) -> Path:
        """Where a unit's record lies: another base, recipe or way of measuring is another file."""
        params = params_of(unit.method, unit.target, unit.seed, {})
        told = digest(
            self.base.sha256, asdict(unit.target), vars(params), RECIPES[unit.method].own(unit.target), _HOW
        )
        return self.out / "units" / f"{unit.name}-{told}.json"

    def record(self, unit: Unit, progress: Progress) -> dict[str, Any]:
        """A unit's record, measured if it is not there yet."""
        path = self.path_of(unit)
        return kept_record(path, lambda: measured(self, unit, progress, path.with_suffix(".png")))

    def untrained(self, shots: Sequence[tuple[str, int]], size: int | None = None) -> np.ndarray:
        """The base's pictures of prompts, drawn once however many methods ask for them."""
        name = digest(self.base.sha256, shots, size, SAMPLER_STEPS, guidance_of())

        def draw() -> np.ndarray:
            with on_base(self.base) as given:
                return _drawn(given, shots, size)

        return kept_pictures(self.out / "untrained" / f"{name}.npy", draw)


_HOW = {"own": OWN, "per_ask": PER_ASK, "class": CLASS, "steps": SAMPLER_STEPS, "version": 1}


def measured(bench: Workbench, unit: Unit, progress: Progress, strip: Path) -> dict[str, Any]:
    """Trains, saves, opens, draws and measures; writes the strip of pictures that contact sheets are made of.

    Args:
        bench: base and folder.
        unit: what to do.
        progress: told of every training step.
        strip: the PNG: a reference, the base on the own prompt, then what was learnt on three prompts.

    Returns:
        The record: measures ``trained``, ``untrained`` and of ``real`` pictures, ``cost``, ``recipe``, ``captions``.
    """
    recipe, target = RECIPES[unit.method], unit.target
    work = bench.out / "work" / unit.name
    folder, cost, params = train(bench.base, unit.method, target, unit.seed, work, progress)
    said = shots_of(recipe, target, unit.seed, trained=True)
    plain = shots_of(recipe, target, unit.seed, trained=False)
    with opened(bench.base, folder) as draw:
        own, asked = _drawn(draw, said.own, said.size), _drawn(draw, said.asked, said.size)
        classes = _drawn(draw, said.plain) if unit.method != "sine" else None
    if classes is None:
        with opened(bench.base, folder, plain=True) as draw:
            classes = _drawn(draw, said.plain)
    before = bench.untrained(plain.plain)
    after = _Arm(own, asked, said, target)
    base = _Arm(
        bench.untrained(plain.own, plain.size) if plain.own else own[:0],
        bench.untrained(plain.asked, plain.size), plain, target,
    )  # fmt: skip
    write_whole(strip, _strip(render_batch(target.train[:1] if said.own else target.held[:1]), base, after))
    shutil.rmtree(work)
    features = image_features(before)
    return {
        "method": unit.method, "target": target.name, "kind": target.kind, "seed": unit.seed,
        "trained": after.measures | {"drift": distance(image_features(classes), features)},
        "untrained": base.measures | {"drift": spread(features)},
        "real": _real(target),
        "cost": asdict(cost), "recipe": params, "base_sha256": bench.base.sha256,
        "captions": [prompt for prompt, _ in (*said.own[:1], *said.asked[:: PER_ASK if said.own else 1])][:3],
    }  # fmt: skip


@dataclass(frozen=True)
class _Arm:
    """Pictures of one arm, own (N, H, W, 3) and asked for (M, H, W, 3), and what they measure."""

    own: np.ndarray
    asked: np.ndarray
    shots: Shots
    target: Target

    @cached_property
    def measures(self) -> dict[str, float]:
        """Each of :data:`MEASURES` that this kind of target has, but for the drift."""
        target, judged = self.target, judge_images(self.asked)
        found = {"prompt": followed(judged, self.shots.wanted)}
        if target.kind == "size":
            # Every picture has a render of its own that it should look like.
            features = image_features(render_batch(target.held))
            return found | {"image": 1 - distance(image_features(self.asked), features)}
        held = render_batch(target.held)
        found["image"] = likeness(image_features(self.own), image_features(held))
        if target.person:
            found["identity"] = likeness(embed(self.own), embed(held))
        if target.kind == "style":
            read = judge_images(self.own).names("style") + judged.names("style")
            found["style"] = float(np.mean([name == target.name for name in read]))
        return found


def _real(target: Target) -> dict[str, float]:
    """The same measures of the training pictures against the held-out ones: what a perfect copy would reach."""
    if target.kind == "size":
        return {}
    train, held = render_batch(target.train), render_batch(target.held)
    found = {"image": likeness(image_features(train), image_features(held))}
    if target.person:
        found["identity"] = likeness(embed(train), embed(held))
    if target.kind == "style":
        found["style"] = float(np.mean([name == target.name for name in judge_images(held).names("style")]))
    return found


def _drawn(draw: Draw, shots: Sequence[tuple[str, int]], size: int | None = None) -> np.ndarray:
    if not shots:
        return np.zeros((0, 1, 1, 3), np.uint8)
    return draw([prompt for prompt, _ in shots], [seed for _, seed in shots], size)


def _strip(reference: np.ndarray, base: _Arm, after: _Arm) -> bytes:
    """A PNG of five pictures of one height, side by side."""
    step = PER_ASK if len(after.own) else 1
    tuned = [*after.own[:1], *after.asked[::step]][:3]
    first = base.own[0] if len(base.own) else base.asked[0]
    tiles = [
        Image.fromarray(each).resize((TILE, TILE), Image.Resampling.NEAREST)
        for each in (reference[0], first, *tuned)
    ]
    sheet = Image.new("RGB", (TILE * len(tiles), TILE))
    for i, tile in enumerate(tiles):
        sheet.paste(tile, (i * TILE, 0))
    data = io.BytesIO()
    sheet.save(data, "PNG")
    return data.getvalue()
