"""What a method saved, opened again as a user would, and ready to draw.

Adapters, words and whole pipelines go through the ordinary loader. Three kinds of file have no place in diffusers and
are sampled by the method's own sampler, from the file: words by stage, vectors by sampler step, and a pair of models.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from auditor.artifact.identify import identify
from auditor.errors import CoverageError
from auditor.personalize.blocks.pair import pair_sample
from auditor.personalize.blocks.saving import PROVENANCE
from auditor.personalize.blocks.staged import load_staged_word, staged_conditions, staged_sample
from auditor.personalize.blocks.stepwise import load_steps, stepwise_sample
from auditor.pipeline.components import Components
from auditor.pipeline.open import load_base
from auditor.pipeline.sampling import seeded_noise
from auditor.pipeline.subject import Subject
from auditor.pipeline.view import View
from auditor.proving.personalize.recipes import SAMPLER_STEPS
from auditor.text import inert
from auditor.world.embedded import guidance_of

__all__ = ["Draw", "files_of", "of_view", "on_base", "opened"]

Draw = Callable[[Sequence[str], Sequence[int], int | None], np.ndarray]
"""Prompts, seeds and pixels of a side (None for the base's own) to pictures, uint8 (N, H, W, 3)."""


def files_of(folder: Path) -> list[Path]:
    """What a method says that it wrote."""
    told = json.loads((folder / PROVENANCE).read_text("utf-8"))
    return [folder / name for name in told["files"]]


@contextmanager
def on_base(base: Components) -> Iterator[Draw]:
    """Draws with nothing on the base."""
    with Subject(base, ()) as subject:
        yield of_view(subject.base)


@contextmanager
def opened(base: Components, folder: Path, plain: bool = False) -> Iterator[Draw]:
    """Draws with what a method saved in ``folder``.

    Args:
        base: what it was trained on.
        folder: with ``provenance.json``.
        plain: for a model that is sampled together with its base: draw with the model alone.

    Raises:
        CoverageError: not all of an adapter's keys arrived.
    """
    told: dict[str, Any] = json.loads((folder / PROVENANCE).read_text("utf-8"))
    if (folder / "pipeline").is_dir():
        tuned = load_base(str(folder / "pipeline"), "cpu", dtype=torch.float32)
        if told["method"] == "sine" and not plain:
            yield _pair(base, tuned, told["params"])
        else:
            with on_base(tuned) as draw:
                yield draw
    elif (path := folder / "learned_stages.safetensors").exists():
        yield _staged(base, path)
    elif (path := folder / "learned_steps.safetensors").exists():
        yield _stepwise(base, path)
    else:
        with Subject(base, [identify(path) for path in files_of(folder)]) as subject:
            if not subject.coverage.full:
                raise CoverageError(f"'{inert(folder.name)}': {subject.coverage.note}")
            yield of_view(subject.tuned)


def of_view(view: View) -> Draw:
    """Draws with one view of a subject."""
    guidance = guidance_of()

    def draw(prompts: Sequence[str], seeds: Sequence[int], size: int | None = None) -> np.ndarray:
        return _pixels(view.sample(prompts, seeds, steps=SAMPLER_STEPS, guidance=guidance, size=size))

    return draw


def _staged(base: Components, path: Path) -> Draw:
    word = load_staged_word(path)

    def latents(prompt: str, noise: Tensor) -> Tensor:
        by_role = {
            role: staged_conditions(word.words(base, role), [prompt], len(noise)) for role in word.roles
        }
        first = by_role.get("key") or by_role[""]
        return staged_sample(base, noise, first, SAMPLER_STEPS, guidance_of(), by_role.get("value"))

    return _by_prompt(base, latents)


def _stepwise(base: Components, path: Path) -> Draw:
    learned = load_steps(path)
    return _by_prompt(
        base, lambda prompt, noise: stepwise_sample(base, learned, prompt, noise, guidance_of())
    )


def _pair(base: Components, tuned: Components, params: dict[str, Any]) -> Draw:
    def latents(prompt: str, noise: Tensor) -> Tensor:
        return pair_sample(
            base, tuned, prompt, params["prompt"], noise, patches=params["patches"], steps=SAMPLER_STEPS,
            guidance=guidance_of(),
        )  # fmt: skip

    return _by_prompt(base, latents)


def _by_prompt(base: Components, latents: Callable[[str, Tensor], Tensor]) -> Draw:
    """From one prompt and its rows of noise to any prompts with a seed each."""
    subject = Subject(base, ())

    def draw(prompts: Sequence[str], seeds: Sequence[int], size: int | None = None) -> np.ndarray:
        shape = subject.base.latent_shape(size)
        out: list[np.ndarray | None] = [None] * len(prompts)
        for prompt in dict.fromkeys(prompts):
            rows = [i for i, each in enumerate(prompts) if each == prompt]
            drawn = latents(prompt, seeded_noise(shape, [seeds[i] for i in rows]).to(base.device))
            for i, picture in zip(rows, _pixels(subject.base.decode(drawn)), strict=True):
                out[i] = picture
        return np.stack([picture for picture in out if picture is not None])

    return draw


def _pixels(images: Tensor) -> np.ndarray:
    return np.asarray(((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())
