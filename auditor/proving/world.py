"""How good the embedded world's models are: one table of figures with n, intervals and targets.

Prompts are judged by the embedded judge, whose own accuracy stands in the same table, on renders as drawn,
after an autoencoder round trip and after light regeneration.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from auditor.metrics.attributes import Judged, judge_images
from auditor.metrics.cards import Card, measure_card, write_card
from auditor.metrics.identity import cosine, embed, impostor_scores, tar_at, threshold_at
from auditor.metrics.quality import psnr
from auditor.proving.table import Row, row, write_table
from auditor.stats import Interval, bootstrap, wilson
from auditor.world.captions import full_caption
from auditor.world.embedded import STEPS, embedded_pipeline, guidance_of, load_manifest
from auditor.world.factors import (
    ObjectScene,
    PersonScene,
    Scene,
    draw_identity,
    draw_object_scene,
    draw_person_scene,
    draw_scene,
)
from auditor.world.labels import HEADS, labels
from auditor.world.render import render_batch
from auditor.world.sampling import regenerate, round_trip, sample
from auditor.world.train.config import TRAIN_SCENES

__all__ = ["FACTORS", "TARGETS", "prompt_accuracy", "prove_world", "sweep_guidance"]

Progress = Callable[[int, int, str], None]

OBJECT_FACTORS = ("object", "colour", "ground")
PERSON_FACTORS = ("skin", "hair", "glasses")
FACTORS = OBJECT_FACTORS + PERSON_FACTORS
TARGETS = {
    "psnr": 28.0, "object": 0.95, "colour": 0.93, "ground": 0.90, "skin": 0.93, "hair": 0.90, "glasses": 0.93,
    "judge": 0.98, "tar": 0.95,
}  # fmt: skip
_FAR = 1e-3
_TRAINING_SEED = 1


def prove_world(
    out: Path,
    n: int = 500,
    seed: int = 20_000,
    progress: Progress = lambda done, total, label: None,
    *,
    folder: Path | None = None,
    device: str = "cpu",
    cards: Path | None = None,
) -> dict[str, Any]:
    """Measures the embedded models and writes ``world.json``, ``world.csv`` and ``world.md`` into ``out``.

    Args:
        out: Folder for the tables, and for the judge's calibration cards unless ``cards`` is given.
        n: Object prompts, and as many person prompts; every other count is a multiple or share of it.
        seed: Of every draw; one seed, one table.
        progress: Told (done, total, label) in units of about one sampled picture's time, so that the time
            that is left is proportional to what is left.
        folder: Another export than the shipped one.
        device: Where to compute.
        cards: Where to write the calibration cards.

    Returns:
        What ``world.json`` holds: ``rows`` (see :class:`auditor.proving.table.Row`) and how they were made.

    Raises:
        BaseUnavailable: A model is not there.
        OutputError: ``out`` cannot be written.
    """
    bench = _Bench(
        embedded_pipeline(device, folder=folder), folder, device, seed, _Meter(progress, _total(n))
    )
    rows = [*_judges(bench, n, cards or out / "cards"), *_identity(bench, _people_of(n)), *_prompts(bench, n)]
    order = ["autoencoder", "prompts", "identity", "judge"]
    rows.sort(key=lambda one: next(i for i, name in enumerate(order) if one.group.startswith(name)))
    context = {
        "seed": seed,
        "prompts per kind": n,
        "DDIM steps": STEPS,
        "guidance scale": guidance_of(folder),
        "prompts": "every factor named. People and pairs are of compositions that no training scene has; "
        "single objects are new draws, whose few compositions training has nearly all seen",
        "steps_done": load_manifest(folder).get("steps_done", {}),
    }
    return write_table(out, "world", "The embedded world's models", rows, context)


def sweep_guidance(
    candidates: Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.5),
    n: int = 48,
    seed: int = 40_000,
    folder: Path | None = None,
) -> dict[float, dict[str, float]]:
    """Accuracy per factor and their ``mean`` on n object and n person prompts, the same for every scale."""
    bench = _Bench(
        embedded_pipeline(folder=folder), folder, "cpu", seed, _Meter(lambda done, total, label: None, 1)
    )
    scenes = [
        *_single_objects(np.random.default_rng((seed, 1)), n),
        *_people(np.random.default_rng((seed, 2)), n),
    ]
    found = {}
    for scale in candidates:
        judged = _judged_samples(bench, scenes, scale, "guidance")
        shares = {name: right.mean() for name, right in prompt_accuracy(judged, scenes).items()}
        found[scale] = {name: float(share) for name, share in shares.items()} | {
            "mean": float(np.mean(list(shares.values())))
        }
    return found


def prompt_accuracy(judged: Judged, scenes: Sequence[Scene]) -> dict[str, np.ndarray]:
    """Whether the judge reads each factor as the scene's record has it.

    Returns:
        bool arrays per factor of :data:`FACTORS`, over the scenes that have it. ``hair`` is right when the
        style is, and the colour too unless the head is bald.
    """
    right: dict[str, list[bool]] = {name: [] for name in FACTORS}
    read = {head: judged.classes(head) for head in HEADS}
    for i, scene in enumerate(scenes):
        truth = labels(scene)
        hit = {head: bool(read[head][i] == truth[head]) for head in HEADS}
        if isinstance(scene, ObjectScene):
            names: tuple[str, ...] = OBJECT_FACTORS
        else:
            names = PERSON_FACTORS
            bald = isinstance(scene, PersonScene) and scene.hair_style == "bald"
            hit["hair"] = hit["hair_style"] and (bald or hit["hair_colour"])
        for name in names:
            right[name].append(hit[name])
    return {name: np.array(hits, dtype=bool) for name, hits in right.items() if hits}


@dataclass
class _Meter:
    progress: Progress
    total: int
    done: float = 0.0

    def add(self, amount: float, label: str) -> None:
        self.done += amount
        self.progress(min(round(self.done), self.total), self.total, label)


@dataclass(frozen=True)
class _Bench:
    pipeline: Any
    folder: Path | None
    device: str
    seed: int
    meter: _Meter

    def judge(self, pixels: np.ndarray) -> Judged:
        return judge_images(pixels, device=self.device, folder=self.folder)

    def tick(self, cost: float, label: str) -> Callable[[int], None]:
        return lambda count: self.meter.add(cost * count, label)


_TRIP, _REGENERATED = 0.04, 0.17


def _people_of(n: int) -> int:
    """Enough for 1,000 impostor pairs, without which FAR 1e-3 cannot be shown, however small ``n`` is."""
    return max(2 * n, 60)


def _total(n: int) -> int:
    judged, people = 2 * n, _people_of(n)
    return round(2 * n + n // 4 + judged * (2 * _TRIP + _REGENERATED) + people * (_TRIP + _REGENERATED))


def _judges(bench: _Bench, n: int, cards: Path) -> list[Row]:
    """The judge on 2 n held-out scenes, half objects, half flat people; with it the autoencoder's figure."""
    rng = np.random.default_rng((bench.seed, 3))
    scenes: list[Scene] = [draw_object_scene(rng) for _ in range(n)]
    scenes += [draw_person_scene(rng, style="flat") for _ in range(n)]
    renders = render_batch(scenes)
    captions = [full_caption(scene) for scene in scenes]
    tripped = round_trip(bench.pipeline, renders, tick=bench.tick(2 * _TRIP, "autoencoder"))
    redone = regenerate(
        bench.pipeline,
        renders,
        captions,
        bench.seed,
        tick=bench.tick(_REGENERATED, "judge after regeneration"),
    )
    signal = psnr(renders, tripped)
    rows = [row("autoencoder", "PSNR, mean over pictures", _mean(signal, bench.seed), "dB", TARGETS["psnr"])]
    for condition, pixels in (("render", renders), ("round_trip", tripped), ("regenerated", redone)):
        judged = bench.judge(pixels)
        card: Card = measure_card(judged, scenes, condition, bench.seed)  # type: ignore[arg-type]  # literals above
        write_card(card, cards)
        for name, right in prompt_accuracy(judged, scenes).items():
            target = TARGETS["judge"] if condition == "render" else None
            rows.append(row(f"judge, {condition.replace('_', ' ')}", name, _share(right), target=target))
    return rows


def _identity(bench: _Bench, people: int) -> list[Row]:
    """Verification of unseen people, two views each, the second as drawn, tripped and regenerated."""
    rng = np.random.default_rng((bench.seed, 4))
    first, second = [], []
    for _ in range(people):
        identity = draw_identity(rng)
        first.append(draw_person_scene(rng, identity, style="flat"))
        second.append(draw_person_scene(rng, identity, style="flat"))
    one, other = render_batch(first), render_batch(second)
    tripped = round_trip(bench.pipeline, other, tick=bench.tick(_TRIP, "identity after round trip"))
    redone = regenerate(
        bench.pipeline,
        other,
        [full_caption(scene) for scene in second],
        bench.seed,
        tick=bench.tick(_REGENERATED, "identity after regeneration"),
    )
    known = embed(one, device=bench.device, folder=bench.folder)
    rows = []
    for name, pixels in (("render", other), ("round trip", tripped), ("regenerated", redone)):
        probes = embed(pixels, device=bench.device, folder=bench.folder)
        target = TARGETS["tar"] if name == "render" else None
        rows.append(
            row(
                "identity",
                f"TAR at FAR 1e-3, render to {name}",
                _tar(known, probes, bench.seed),
                target=target,
            )
        )
    return rows


def _prompts(bench: _Bench, n: int) -> list[Row]:
    guidance = guidance_of(bench.folder)
    seen = _trained_compositions()
    singles = _single_objects(np.random.default_rng((bench.seed, 5)), n)
    people = _people(np.random.default_rng((bench.seed, 6)), n, seen)
    pairs = _pairs(np.random.default_rng((bench.seed, 7)), n // 4, seen)
    rows = []
    for label, scenes in (("object prompts", singles), ("person prompts", people)):
        judged = _judged_samples(bench, scenes, guidance, label)
        for name, right in prompt_accuracy(judged, scenes).items():
            rows.append(row("prompts", name, _share(right), target=TARGETS[name]))
    if pairs:
        judged = _judged_samples(bench, pairs, guidance, "pair prompts")
        truth = [labels(scene) for scene in pairs]
        for name, heads in (
            ("both objects", ("object", "second_object")),
            ("both colours", ("colour", "second_colour")),
        ):
            right = np.all([judged.classes(head) == [one[head] for one in truth] for head in heads], axis=0)
            rows.append(row("prompts", f"pairs, {name}", _share(right)))
    return rows


def _judged_samples(bench: _Bench, scenes: Sequence[Scene], guidance: float, label: str) -> Judged:
    captions = [full_caption(scene) for scene in scenes]
    return bench.judge(
        sample(bench.pipeline, captions, bench.seed, guidance=guidance, tick=bench.tick(1.0, label))
    )


def _single_objects(rng: np.random.Generator, n: int) -> list[Scene]:
    found: list[Scene] = []
    while len(found) < n:
        scene = draw_object_scene(rng)
        if len(scene.things) == 1:
            found.append(scene)
    return found


def _people(rng: np.random.Generator, n: int, seen: frozenset[str] = frozenset()) -> list[Scene]:
    found: list[Scene] = []
    while len(found) < n:
        scene = draw_person_scene(rng, style="flat")
        if _composition(scene) not in seen:
            found.append(scene)
    return found


def _pairs(rng: np.random.Generator, n: int, seen: frozenset[str]) -> list[Scene]:
    found: list[Scene] = []
    while len(found) < n:
        scene = draw_object_scene(rng)
        if len(scene.things) == 2 and _composition(scene) not in seen:
            found.append(scene)
    return found


def _composition(scene: Scene) -> str:
    """What the fullest caption says: scenes with the same one differ only in what has no word."""
    return full_caption(scene)


def _trained_compositions() -> frozenset[str]:
    rng = np.random.default_rng(_TRAINING_SEED)
    return frozenset(_composition(draw_scene(rng)) for _ in range(TRAIN_SCENES))


def _share(right: np.ndarray) -> Interval:
    return wilson(int(right.sum()), len(right))


def _mean(values: np.ndarray, seed: int) -> Interval:
    return bootstrap(values, lambda rows: rows.mean(axis=1), rng=np.random.default_rng((seed, 8)))


def _tar(known: np.ndarray, probes: np.ndarray, seed: int) -> Interval:
    """TAR at the threshold of these people's own impostor pairs; people are resampled, threshold and all."""
    scores = known @ probes.T
    genuine = cosine(known, probes)
    rate = tar_at(genuine, threshold_at(impostor_scores(known, probes), _FAR))
    if rate in (0.0, 1.0):
        return wilson(round(rate * len(genuine)), len(genuine))

    def resampled(picks: np.ndarray) -> np.ndarray:
        rates = []
        for pick in picks.astype(int):
            square = scores[np.ix_(pick, pick)]
            rates.append(tar_at(genuine[pick], threshold_at(square[pick[:, None] != pick[None]], _FAR)))
        return np.array(rates)

    people = np.arange(len(genuine), dtype=float)
    return bootstrap(
        people, resampled, rng=np.random.default_rng((seed, 9)), method="percentile", resamples=300
    )
