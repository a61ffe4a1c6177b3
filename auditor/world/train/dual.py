"""The dual encoder, trained contrastively with factor heads on both towers; its text tower becomes the CLIPTextModel.

Captions leave factors out, so the contrastive loss alone would settle for what tells a batch apart. The
heads make both towers keep every factor that has a word. A random vocabulary token dropped into one caption
in six teaches that a token never seen in a meaningful place means nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from auditor.world.captions import caption
from auditor.world.labels import ABSENT, HEADS, label_matrix
from auditor.world.text_tower import to_transformers
from auditor.world.train.config import DUAL, MAX_TOKENS, RECIPES, TEXT_ENCODER, VOCAB_SIZE
from auditor.world.train.data import SceneData, to_unit
from auditor.world.train.loop import fit

__all__ = ["Dual", "build_dual", "captions_to_ids", "text_model_of", "train_dual"]

_INSERTED = 1 / 6


class Dual(nn.Module):
    """An ``open_clip.CLIP`` with linear factor heads on both normalised features (the heads are dropped on export)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.clip = build_dual()
        sizes = [len(classes) for classes in HEADS.values()]
        self.sizes = sizes
        self.image_heads = nn.Linear(DUAL["embed_dim"], sum(sizes))
        self.text_heads = nn.Linear(DUAL["embed_dim"], sum(sizes))

    def loss(self, images: Tensor, ids: Tensor, targets: Tensor) -> Tensor:
        """InfoNCE both ways plus cross entropy of every factor from either side."""
        seen, read = self.clip.encode_image(images), self.clip.encode_text(ids)
        logits = (
            self.clip.logit_scale.exp().clamp(max=50)
            * F.normalize(seen, dim=-1)
            @ F.normalize(read, dim=-1).T
        )
        match = torch.arange(len(ids), device=ids.device)
        contrastive = (F.cross_entropy(logits, match) + F.cross_entropy(logits.T, match)) / 2
        return contrastive + 0.5 * (
            self._factors(self.image_heads(seen), targets) + self._factors(self.text_heads(read), targets)
        )

    def _factors(self, logits: Tensor, targets: Tensor) -> Tensor:
        parts = [
            F.cross_entropy(one, target, ignore_index=ABSENT, reduction="sum")
            / max(1, int((target != ABSENT).sum()))
            for one, target in zip(torch.split(logits, self.sizes, dim=1), targets.T, strict=True)
        ]
        return torch.stack(parts).mean()


def build_dual() -> open_clip.CLIP:
    """A fresh ``open_clip.CLIP`` of the embedded size."""
    return open_clip.CLIP(**DUAL)


def captions_to_ids(
    tokenizer: CLIPTokenizer, captions: list[str], rng: np.random.Generator | None = None
) -> Tensor:
    """int64 (N, MAX_TOKENS); with ``rng``, a random token goes into some captions."""
    ids = np.array(
        tokenizer(captions, padding="max_length", truncation=True, max_length=MAX_TOKENS).input_ids
    )
    if rng is not None:
        for row in np.flatnonzero(rng.random(len(ids)) < _INSERTED):
            length = int((ids[row] != tokenizer.eos_token_id).sum())
            at = int(rng.integers(1, min(length, MAX_TOKENS - 2) + 1))
            ids[row, at + 1 : -1] = ids[row, at:-2].copy()
            ids[row, at] = rng.integers(VOCAB_SIZE - 2)
    return torch.from_numpy(ids)


def train_dual(data: SceneData, folder: Path, device: torch.device) -> Dual:
    """Trains both towers; returns EMA weights."""
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    targets = torch.from_numpy(label_matrix(data.scenes))
    dual = Dual().to(device)
    recipe = RECIPES["dual"]

    def step(_: int, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        rows = rng.integers(data.count, size=recipe.batch)
        ids = captions_to_ids(tokenizer, [caption(data.scenes[row], rng) for row in rows], rng)
        images = to_unit(data.pixels[rows], device)
        images = images + 0.1 * torch.rand(1, generator=generator).item() * torch.randn(
            images.shape, generator=generator
        ).to(device)
        return dual.loss(images, ids.to(device), targets[rows].to(device))

    fit("dual", dual, step, recipe, folder, device)
    return dual


def text_model_of(clip: open_clip.CLIP) -> CLIPTextModel:
    """The text tower in transformers' own class; the same function of the same ids."""
    config = CLIPTextConfig(
        **TEXT_ENCODER, bos_token_id=VOCAB_SIZE - 2, eos_token_id=VOCAB_SIZE - 1, pad_token_id=VOCAB_SIZE - 1
    )
    model = CLIPTextModel(config)
    renamed = to_transformers(clip.state_dict(), config.num_hidden_layers)
    prefix = "text_model." if any(key.startswith("text_model.") for key in model.state_dict()) else ""
    missing, unexpected = model.load_state_dict(
        {prefix + key: value for key, value in renamed.items()}, strict=False
    )
    if unexpected or any("position_ids" not in key for key in missing):
        raise RuntimeError(f"text tower does not map: missing {missing}, unexpected {unexpected}")
    return model.eval()
