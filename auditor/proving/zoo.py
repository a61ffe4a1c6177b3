"""A zoo of clean adapters on the embedded base: varied subjects and recipes, made on demand, resumed by recipe hash.

The recipe of adapter ``i`` depends on the zoo's seed and ``i`` only, so a zoo grows without changing what it
has, and two processes can make its odd and even members side by side.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from auditor.contracts import Progress
from auditor.personalize.dreambooth_lora import DreamBoothLora, train_dreambooth_lora
from auditor.personalize.lora import save_diffusers_lora
from auditor.pipeline.components import Components
from auditor.world.captions import caption
from auditor.world.factors import (
    COLOURS,
    OBJECTS,
    STYLES,
    Scene,
    draw_identity,
    draw_object_scene,
    draw_person_scene,
)  # fmt: skip
from auditor.world.render import render_batch

__all__ = ["CleanRecipe", "clean_recipe", "make_clean", "subject_images"]

IDENTIFIERS = ("sks", "ohwx", "zwx", "blor", "klem", "vrisk", "plonk", "snarv")
_RANKS = (2, 4, 8, 16)


@dataclass(frozen=True)
class CleanRecipe:
    """One member of the zoo: what it learns (``person``, ``object``, ``style``), from how many pictures, and how."""

    kind: str
    images: int
    subject_seed: int
    train: DreamBoothLora

    @property
    def digest(self) -> str:
        """Names the member's folder."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def covariates(self) -> dict[str, Any]:
        """What scores may depend on, as banks record it."""
        train = self.train
        return {
            "method": "dreambooth-lora" + ("+te" if train.train_text_encoder else ""),
            "rank": train.rank,
            "steps": train.steps,
            "lr": train.lr,
            "extra": {
                "kind": self.kind,
                "images": float(self.images),
                "prior": float(bool(train.class_prompt)),
            },
        }


def clean_recipe(index: int, seed: int = 0) -> CleanRecipe:
    """The recipe of member ``index``: subject, rank, steps, learning rate, text encoder and prior all drawn."""
    rng = np.random.default_rng((seed, index))
    kind = str(rng.choice(("person", "object", "style"), p=(0.45, 0.3, 0.25)))
    identifier = str(rng.choice(IDENTIFIERS))
    subject_seed = int(rng.integers(2**31))
    noun = {"person": "person", "object": _object(subject_seed)[0], "style": "style"}[kind]
    prompt = f"a picture in {identifier} style" if kind == "style" else f"a picture of {identifier} {noun}"
    prior = f"a picture of a {noun}" if kind != "style" and rng.random() < 0.7 else ""
    train = DreamBoothLora(
        prompt=prompt,
        class_prompt=prior,
        rank=int(rng.choice(_RANKS)),
        steps=int(rng.integers(24, 65)),
        batch=2,
        class_images=6,
        lr=round(float(np.exp(rng.uniform(np.log(5e-4), np.log(4e-3)))), 6),
        train_text_encoder=bool(rng.random() < 0.5),
        seed=int(rng.integers(2**31)),
    )
    return CleanRecipe(kind, int(rng.integers(3, 9)), subject_seed, train)


def subject_images(recipe: CleanRecipe) -> tuple[Tensor, list[str]]:
    """Pictures (N, 3, 64, 64) in [-1, 1] and their prompts."""
    rng = np.random.default_rng((recipe.subject_seed, 5))
    scenes = list(_scenes(recipe, rng))
    prompts = [recipe.train.prompt] * len(scenes)
    if recipe.kind == "style":
        identifier = recipe.train.prompt.split()[3]
        prompts = [
            f"{caption(scene, rng).partition(' of ')[2] or 'a picture'} in {identifier} style"
            for scene in scenes
        ]
    return torch.from_numpy(render_batch(scenes)).permute(0, 3, 1, 2).float() / 127.5 - 1, prompts


def make_clean(base: Components, recipe: CleanRecipe, folder: Path, progress: Progress) -> Path:
    """The member's file, trained if it is not there yet; written whole or not at all."""
    target = folder / f"{recipe.digest}-{base.sha256[:8]}"
    path = target / "pytorch_lora_weights.safetensors"
    if path.exists():
        return path
    images, prompts = subject_images(recipe)
    trained = train_dreambooth_lora(base, images, recipe.train, progress, prompts)
    part = target.with_name(target.name + ".part")
    # What an earlier attempt that was killed left behind.
    shutil.rmtree(part, ignore_errors=True)
    meta = {"modelspec.trigger_phrase": recipe.train.prompt}
    rank = recipe.train.rank
    save_diffusers_lora(
        part, trained.unet, trained.text_encoder, rank, recipe.train.alpha or rank, meta, base.kind.denoiser,
        trained.text_encoder_2,
    )  # fmt: skip
    part.replace(target)
    return path


def _scenes(recipe: CleanRecipe, rng: np.random.Generator) -> Iterator[Scene]:
    if recipe.kind == "person":
        identity, looks = draw_identity(rng), draw_person_scene(rng)
        for _ in range(recipe.images):
            yield draw_person_scene(
                rng, identity, style="flat", hair_style=looks.hair_style, hair_colour=looks.hair_colour,
                presentation=looks.presentation, age=looks.age,
            )  # fmt: skip
    elif recipe.kind == "object":
        kind, colour = _object(recipe.subject_seed)
        made = 0
        while made < recipe.images:
            scene = draw_object_scene(rng, style="flat")
            if not scene.relation:
                thing = scene.things[0].__class__(kind, colour, *_place(rng), scene.things[0].size)
                yield draw_object_scene(rng, things=(thing,), style="flat")
                made += 1
    else:
        style = STYLES[1 + recipe.subject_seed % 3]
        for _ in range(recipe.images):
            yield draw_object_scene(rng, style=style)


def _object(seed: int) -> tuple[str, str]:
    return OBJECTS[seed % len(OBJECTS)], COLOURS[seed // 31 % len(COLOURS)]


def _place(rng: np.random.Generator) -> tuple[float, float]:
    x, y = rng.uniform(27, 37, 2)
    return round(float(x), 2), round(float(y), 2)
