"""Pictures of one prompt while a model is trained, always from the same noise; training does not feel them."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from auditor.errors import OutputError
from auditor.personalize.blocks.ruled import null_condition
from auditor.personalize.blocks.training import Training
from auditor.pipeline.components import Components
from auditor.pipeline.conditioning import Conditioning, decode_latents, encode_prompts
from auditor.pipeline.denoiser import Denoiser
from auditor.pipeline.pictures import contact_sheet
from auditor.pipeline.samplers import draw_latents
from auditor.pipeline.sampling import seeded_noise
from auditor.text import inert

__all__ = ["FOLDER", "GUIDANCE", "SHEET", "STEPS", "Draw", "Look", "Validation", "look_with", "plain_look"]

FOLDER, SHEET = "validation", "validation.png"
_SEEDS = (0, 1)
STEPS, GUIDANCE = 20, 3.0
"""Of the sampler that draws validation pictures."""
_NAME = re.compile(r"step-(\d+)\.png")

Draw = Callable[[list[str], Tensor], Tensor]
"""Prompts and noise (B, C, h, w) to clean latents (B, C, h, w), with what is trained as it stands."""
Look = Callable[[str], Tensor]
"""A prompt to pictures (N, 3, H, W) in [-1, 1], on the CPU; the same noise every time."""


def look_with(base: Components, draw: Draw) -> Look:
    """Pictures by a sampler of a method's own, one at a time: that needs least memory."""
    noise = seeded_noise(base.kind.latent_shape(base), _SEEDS)

    @torch.no_grad()
    def look(prompt: str) -> Tensor:
        rows = [draw([prompt], row.to(base.device)) for row in torch.split(noise, 1)]
        return torch.cat([decode_latents(base, latents) for latents in rows])

    return look


def plain_look(base: Components, encode: Callable[[list[str]], Conditioning] | None = None) -> Look:
    """Pictures by the base's usual sampler, 20 steps at guidance 3.

    Args:
        base: with whatever is trained in its place.
        encode: prompts to conditions, where a method has a way of its own.
    """

    def plain(prompts: list[str]) -> Conditioning:
        return encode_prompts(base, base.tokenizers, prompts)

    def draw(prompts: list[str], noise: Tensor) -> Tensor:
        condition, null = (encode or plain)(prompts), null_condition(base, len(noise))
        if base.kind.guidance_distilled:
            return draw_latents(Denoiser(base), noise, condition.told(GUIDANCE), null, STEPS, 1.0)
        return draw_latents(Denoiser(base), noise, condition, null, STEPS, GUIDANCE)

    return look_with(base, draw)


class Validation:
    """Writes ``validation/step-<n>.png`` and one sheet of all of them, ``validation.png``.

    Args:
        folder: where a training leaves its files.
        training: how often, and of which prompt.
        look: draws.
    """

    def __init__(self, folder: Path, training: Training, look: Look) -> None:
        self._folder, self._look = folder, look
        self._every, self._prompt = training.validate_every, training.validate_prompt

    def after(self, steps: int) -> None:
        """Draws if it is time to; the sheet holds what earlier parts of an interrupted run drew as well.

        Raises:
            OutputError: a picture cannot be written.
        """
        if steps % self._every:
            return
        with torch.random.fork_rng(devices=[]):
            images = self._look(self._prompt)
        own = self._folder / FOLDER / f"step-{steps:05d}.png"
        try:
            own.parent.mkdir(parents=True, exist_ok=True)
            _write(own, _beside(images))
            found = {int(m[1]): path for path in own.parent.iterdir() if (m := _NAME.fullmatch(path.name))}
            rows = [(f"step {n}", _apart(found[n])) for n in sorted(found) if n <= steps]
            _write(self._folder / SHEET, contact_sheet(rows))
        except OSError as error:
            shown = inert(str(own), 200)
            raise OutputError(f"cannot write the validation picture '{shown}': {error.strerror}") from error


def _beside(images: Tensor) -> bytes:
    pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    out = io.BytesIO()
    Image.fromarray(np.concatenate(list(pixels), axis=1)).save(out, "PNG")
    return out.getvalue()


def _apart(path: Path) -> Tensor:
    with Image.open(path, formats=("PNG",)) as opened:
        pixels: Sequence[np.ndarray] = np.split(np.array(opened.convert("RGB")), len(_SEEDS), axis=1)
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
