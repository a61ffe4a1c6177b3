"""The identity embedder: two pictures of one person near, of two people far, whatever else changes.

First a regression of the facial factors and the skin from one picture, which says directly what a face is
made of; then InfoNCE over pairs of views (van den Oord et al., arXiv 1807.03748) is blended in, which weighs
the factors by how well they can be seen. InfoNCE alone settles on face width and length, which already tell
a batch apart. The regression heads are dropped on export.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auditor.world.factors import FACE_FACTORS, SKINS, Identity, draw_identity, draw_person_scene
from auditor.world.nets import IdentityNet
from auditor.world.render import render
from auditor.world.train.augment import ROUND_TRIPS_FROM, disturb, round_trips
from auditor.world.train.config import IDENTITY, RECIPES
from auditor.world.train.data import to_unit
from auditor.world.train.loop import fit

__all__ = ["IdentityTrainer", "build_identity", "draw_views", "train_identity"]

_PEOPLE = 14_000
_VIEWS = 3
_POOL_PEOPLE = 1500
_CONTRAST_FROM = 0.5
_SCALE = 20.0
_SEED = 11


class IdentityTrainer(nn.Module):
    """The embedder with the regression heads it is trained with."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.net = IdentityNet(**IDENTITY)
        self.factors = nn.Linear(IDENTITY["features"], len(FACE_FACTORS))
        self.skin = nn.Linear(IDENTITY["features"], len(SKINS))

    def loss(self, images: Tensor, faces: Tensor, skins: Tensor, contrast: float) -> Tensor:
        """Regression plus ``contrast`` times InfoNCE.

        Args:
            images: first views, then second views of the same N people.
            faces: float (N, factors).
            skins: int64 (N,).
            contrast: weight in [0, 1].
        """
        features = self.net.trunk(images)
        # Uniform on [-1, 1] has variance 1/3: a factor that is not seen at all costs 1.
        error = 3 * F.mse_loss(self.factors(features).float(), faces.repeat(2, 1))
        error = error + 0.2 * F.cross_entropy(self.skin(features).float(), skins.repeat(2))
        if contrast == 0:
            return error
        embedded = F.normalize(self.net.embed(features).float(), dim=-1)
        logits = _SCALE * embedded @ embedded.T
        logits = logits.masked_fill(torch.eye(len(images), dtype=torch.bool, device=images.device), -1e4)
        own = torch.arange(len(images), device=images.device).roll(len(faces))
        return error + contrast * F.cross_entropy(logits, own)


def build_identity() -> IdentityTrainer:
    """A fresh embedder of the embedded size."""
    return IdentityTrainer()


def draw_views(people: int, views: int, seed: int) -> tuple[list[Identity], np.ndarray]:
    """New people, each seen ``views`` times in flat style with everything but the identity drawn anew.

    Returns:
        The identities, and uint8 pixels (people, views, 64, 64, 3).
    """
    rng = np.random.default_rng((seed, people, views))
    identities = [draw_identity(rng) for _ in range(people)]
    pixels = np.empty((people, views, 64, 64, 3), np.uint8)
    for row, identity in enumerate(identities):
        for view in range(views):
            pixels[row, view] = render(draw_person_scene(rng, identity, style="flat"))
    return identities, pixels


def train_identity(folder: Path, device: torch.device) -> IdentityTrainer:
    """Trains on people of its own (rendered at the start, in a minute); returns EMA weights."""
    trainer = build_identity().to(device).to(memory_format=torch.channels_last)
    recipe = RECIPES["identity"]
    identities, pixels = draw_views(_PEOPLE, _VIEWS, _SEED)
    faces = torch.tensor([identity.face for identity in identities], dtype=torch.float32)
    skins = torch.tensor([SKINS.index(identity.skin) for identity in identities])

    @cache
    def pool() -> np.ndarray:
        flat = round_trips(pixels[:_POOL_PEOPLE].reshape(-1, 64, 64, 3), folder, device, seed=recipe.seed)
        return flat.reshape(_POOL_PEOPLE, _VIEWS, 64, 64, 3)

    def step(i: int, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        done = i / recipe.steps
        tripped = done >= ROUND_TRIPS_FROM and rng.random() < 0.5
        rows = rng.choice(_POOL_PEOPLE if tripped else _PEOPLE, recipe.batch // 2, replace=False)
        first, second = rng.permutation(_VIEWS)[:2]
        source = pool() if tripped else pixels
        one, other = to_unit(pixels[rows, first], device), to_unit(source[rows, second], device)
        images = torch.cat([one, disturb(other, generator)]).contiguous(memory_format=torch.channels_last)
        contrast = float(np.clip((done - _CONTRAST_FROM) / 0.2, 0, 1))
        return trainer.loss(images, faces[rows].to(device), skins[rows].to(device), contrast)

    fit("identity", trainer, step, recipe, folder, device)
    return trainer
