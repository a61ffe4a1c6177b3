"""A user's pictures as a method sees them: cached latents, one prompt each, and a hash of what was read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from auditor.errors import UsageError
from auditor.personalize.images import load_images
from auditor.pipeline.components import Components
from auditor.pipeline.conditioning import encode_images, encode_prompts
from auditor.pipeline.denoiser import Denoiser
from auditor.pipeline.samplers import draw_latents
from auditor.pipeline.sampling import seeded_noise

__all__ = ["Examples", "class_latents", "load_examples"]

_VALUES = 1 << 16
"""Places of latents that are drawn at once: all of a small base, 16 rows of SD at 512 pixels, 4 of SDXL at 1024."""


@dataclass(frozen=True)
class Examples:
    """Training examples.

    Attributes:
        images: (N, 3, H, W) in [-1, 1].
        latents: their scaled latents (N, C, h, w), on the base's device, encoded once.
        prompts: one a picture.
    """

    images: Tensor
    latents: Tensor
    prompts: tuple[str, ...]

    @classmethod
    def of(cls, base: Components, images: Tensor, prompts: Sequence[str]) -> Examples:
        """Encodes pictures (N, 3, H, W) in [-1, 1]; raises ``UsageError`` where prompts differ in number."""
        if len(prompts) != len(images):
            raise UsageError(f"{len(images)} images need as many prompts, not {len(prompts)}")
        with torch.no_grad():
            return cls(images, encode_images(base, images), tuple(prompts))

    def __len__(self) -> int:
        return len(self.images)

    @property
    def hashes(self) -> list[str]:
        """See :meth:`hashes_of`."""
        return self.hashes_of(self.images)

    @staticmethod
    def hashes_of(images: Tensor) -> list[str]:
        """SHA-256 of the pixels of each picture (N, 3, H, W) as it is trained on."""
        return [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in images]


def load_examples(folder: Path, base: Components, prompt: str, skip_unreadable: bool = False) -> Examples:
    """Every picture of a folder at the base's own size, all under one prompt.

    Raises:
        UsageError: an empty prompt, or see :func:`auditor.personalize.images.load_images`.
    """
    if not prompt.strip():
        raise UsageError("the prompt is empty; name the subject, for example --prompt 'a picture of sks person'")
    images = load_images(folder, base.image_size, skip_unreadable)
    return Examples.of(base, images, [prompt] * len(images))


def class_latents(base: Components, prompt: str, count: int, seed: int, shape: torch.Size) -> Tensor:
    """The frozen model's own pictures of a class as latents (count, C, h, w): 15 steps, guidance 3.

    A guidance-distilled model is told its guidance instead.
    """
    condition = encode_prompts(base, base.tokenizers, [prompt] * count)
    null = encode_prompts(base, base.tokenizers, [""] * count)
    weight = 3.0
    if base.kind.guidance_distilled:
        condition, weight = condition.told(weight), 1.0
    noise = seeded_noise(shape, [seed * 1009 + i for i in range(count)]).to(base.device)
    parts = torch.split(torch.arange(count), max(1, _VALUES // (shape[-1] * shape[-2])))
    with torch.no_grad():
        return torch.cat(
            [draw_latents(Denoiser(base), noise[at], condition[at], null[at], 15, weight) for at in parts]
        )
