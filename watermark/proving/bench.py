"""What every unit draws on: the base at one size, prompts with known answers, keys and users, by a seed."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from auditor.proving.counts import write_whole
from auditor.world.captions import full_caption
from auditor.world.embedded import guidance_of
from auditor.world.factors import Scene, draw_scene
from auditor.world.render import render_batch
from watermark.keys import NONCE_BYTES, MasterKey
from watermark.scheme import LatentScheme, Shape
from watermark.tracing import user_payload

if TYPE_CHECKING:
    from auditor.pipeline.view import View

__all__ = ["CHUNK", "STEPS", "USERS", "Batch", "Bench", "as_images", "as_pixels"]

Pixels = NDArray[np.uint8]

CHUNK = 8
"""Pictures of one unit."""
STEPS = 20
"""Of the sampler, and of the last rung of the detector's ladder."""
USERS = 2048


@dataclass(frozen=True)
class Batch:
    """Marked pictures of one chunk.

    Attributes:
        pixels: uint8 (B, H, W, 3).
        key: the master key, from the seed: for measuring alone.
        nonces: B.
        users: B numbers below :data:`USERS`.
        payloads: B, each its user's.
    """

    pixels: Pixels
    key: MasterKey
    nonces: tuple[bytes, ...]
    users: tuple[int, ...]
    payloads: tuple[bytes, ...]


class Bench:
    """The base at one size. Pictures are drawn when they are first asked for and kept in ``out/pictures``.

    Args:
        view: the base.
        out: folder of the run.
        size: pixels of a side.
        seed: of every draw.
    """

    def __init__(self, view: View, out: Path, size: int, seed: int) -> None:
        self.view, self.out, self.size, self.seed = view, out, size, seed
        self.shape: Shape = view.latent_shape(size)
        self.guidance = guidance_of()

    @property
    def name(self) -> str:
        """The size as the table has it: of the latents."""
        return "x".join(map(str, self.shape))

    def rng(self, *purpose: object) -> np.random.Generator:
        """A generator for one purpose at this size."""
        text = "|".join(map(str, (self.seed, self.size, *purpose)))
        return np.random.default_rng(np.frombuffer(hashlib.sha256(text.encode()).digest(), dtype=np.uint32))

    def path(self, *parts: str) -> Path:
        """Where the record of a unit lies."""
        return self.out / "units" / str(self.size) / ("-".join(parts) + ".json")

    @cached_property
    def users(self) -> tuple[str, ...]:
        """Names of all users."""
        return tuple(f"user {i}" for i in range(USERS))

    def scenes(self, chunk: int) -> list[Scene]:
        """What is drawn, the same at each size and for each scheme."""
        rng = np.random.default_rng((self.seed, chunk))
        return [draw_scene(rng) for _ in range(CHUNK)]

    def prompts(self, chunk: int) -> list[str]:
        """Captions that name every factor."""
        return [full_caption(scene) for scene in self.scenes(chunk)]

    def key(self, scheme: LatentScheme) -> MasterKey:
        """The owner's."""
        return MasterKey(self.rng("key", scheme.id).bytes(32))

    def clean(self, chunk: int) -> Pixels:
        """Unmarked pictures of the same prompts, uint8 (B, H, W, 3)."""
        seeds = [int(seed) for seed in self.rng("clean", chunk).integers(2**31, size=CHUNK)]
        return self._kept(f"clean-{chunk}", lambda: self.draw(self.prompts(chunk), seeds=seeds))

    def natural(self, chunk: int) -> Pixels:
        """Renders of other scenes, scaled to the size, uint8 (B, H, W, 3)."""
        rng = self.rng("natural", chunk)
        drawn = as_images(render_batch([draw_scene(rng) for _ in range(CHUNK)]))
        if self.size != drawn.shape[-1]:
            drawn = F.interpolate(drawn, (self.size, self.size), mode="bicubic", antialias=True)
        return as_pixels(drawn)

    def marked(self, scheme: LatentScheme, chunk: int, view: View | None = None, name: str = "") -> Batch:
        """Marked pictures; with another view, those that the model draws with an adapter called ``name``."""
        held, key = scheme.capacity(self.shape), self.key(scheme)
        rng = self.rng("marked", scheme.id, name, chunk)
        users = tuple(int(user) for user in rng.integers(USERS, size=CHUNK))
        payloads = tuple(user_payload(key, self.users[user], held.payload_bits) for user in users)
        nonces = tuple(rng.bytes(NONCE_BYTES) for _ in users)

        def draw() -> Pixels:
            return self.draw_marked(scheme, self.prompts(chunk), nonces, payloads, view)

        kept = "-".join(part for part in (scheme.id, name, str(chunk)) if part)
        return Batch(self._kept(kept, draw), key, nonces, users, payloads)

    def draw_marked(
        self,
        scheme: LatentScheme,
        prompts: Sequence[str],
        nonces: Sequence[bytes],
        payloads: Sequence[bytes],
        view: View | None = None,
    ) -> Pixels:
        """Draws from noise that carries the mark."""
        key = self.key(scheme)
        noise = [scheme.embed(key, n, self.shape, p) for n, p in zip(nonces, payloads, strict=True)]
        return self.draw(prompts, noise=torch.from_numpy(np.stack(noise)), view=view)

    def draw(
        self,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int] = (),
        noise: Tensor | None = None,
        view: View | None = None,
    ) -> Pixels:
        """Draws pictures as they would be saved: in 8 bits."""
        given: dict[str, Any] = {"size": self.size} if noise is None else {"noise": noise}
        chosen = list(seeds) or [0] * len(prompts)
        return as_pixels(
            (view or self.view).sample(prompts, chosen, steps=STEPS, guidance=self.guidance, **given)
        )

    def _kept(self, name: str, draw: Callable[[], Pixels]) -> Pixels:
        path = self.out / "pictures" / str(self.size) / f"{name}.npy"
        if not path.exists():
            file = io.BytesIO()
            np.save(file, draw(), allow_pickle=False)
            write_whole(path, file.getvalue())
        found: Pixels = np.load(path, allow_pickle=False)
        return found


def as_images(pixels: Pixels) -> Tensor:
    """uint8 (B, H, W, 3) as float32 (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def as_pixels(images: Tensor) -> Pixels:
    """Images (B, 3, H, W) in [-1, 1] as they would be saved: uint8 (B, H, W, 3)."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
