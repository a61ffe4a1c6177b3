"""Likeness of pictures and words in the space of the embedded open_clip dual encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from auditor.errors import UsageError
from auditor.metrics.pixels import batched
from auditor.world.embedded import load_dual, load_tokenizer

__all__ = ["caption_scores", "image_features", "similarity", "text_features"]


def image_features(
    pixels: np.ndarray, *, device: str | torch.device = "cpu", batch: int = 100, folder: Path | None = None
) -> np.ndarray:
    """Unit vectors, float32 (N, 128), of pictures, uint8 (N, H, W, 3)."""
    dual = load_dual(device, folder)
    return batched(pixels, lambda images: F.normalize(dual.encode_image(images), dim=-1), device, batch)


@torch.no_grad()
def text_features(
    captions: Sequence[str], *, device: str | torch.device = "cpu", folder: Path | None = None
) -> np.ndarray:
    """Unit vectors, float32 (N, 128), of captions; text beyond the encoder's 32 tokens is not read."""
    if not captions:
        raise UsageError("There are no captions to measure.")
    dual, tokenizer = load_dual(device, folder), load_tokenizer(folder)
    ids = tokenizer(
        list(captions),
        padding="max_length",
        truncation=True,
        max_length=dual.context_length,
        return_tensors="pt",
    ).input_ids
    parts = [F.normalize(dual.encode_text(part.to(device)), dim=-1).float().cpu() for part in ids.split(100)]
    return np.asarray(torch.cat(parts).numpy())


def similarity(
    pixels: np.ndarray,
    captions: Sequence[str],
    *,
    device: str | torch.device = "cpu",
    folder: Path | None = None,
) -> np.ndarray:
    """Cosine of each picture with each caption: float32 (N, M) in [-1, 1]."""
    images = image_features(pixels, device=device, folder=folder)
    return np.asarray(images @ text_features(captions, device=device, folder=folder).T)


def caption_scores(
    pixels: np.ndarray,
    captions: Sequence[str],
    *,
    device: str | torch.device = "cpu",
    folder: Path | None = None,
) -> np.ndarray:
    """Cosine of picture i with caption i: float32 (N,).

    Raises:
        UsageError: Another number of captions than of pictures.
    """
    if len(pixels) != len(captions):
        raise UsageError(f"{len(pixels)} pictures need as many captions, got {len(captions)}.")
    images = image_features(pixels, device=device, folder=folder)
    return np.asarray((images * text_features(captions, device=device, folder=folder)).sum(axis=1))
