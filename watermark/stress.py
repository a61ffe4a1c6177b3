"""How much of a mark outlives attacks on its pictures: drawn, attacked, inverted with the base, and counted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from auditor.contracts import JsonValue, Progress
from auditor.errors import UsageError
from auditor.stats import clopper_pearson
from watermark.detection import Decision, Detection
from watermark.keys import NONCE_BYTES, MasterKey
from watermark.scheme import LatentScheme, Shape

if TYPE_CHECKING:
    from torch import Tensor

    from auditor.pipeline.view import View
    from watermark.removal.attack import Removal

__all__ = ["Marked", "StressRow", "draw_marked", "stress", "whole_latents", "whole_picture"]


@dataclass(frozen=True)
class Marked:
    """Marked pictures and what a detector is given to find them by.

    Attributes:
        images: (B, 3, H, W) in [-1, 1].
        key: the key; made from a seed, for measuring alone.
        nonces: B.
        payload: the same in every picture.
        shape: of the latents of one picture.
    """

    images: Tensor
    key: MasterKey
    nonces: tuple[bytes, ...]
    payload: bytes
    shape: Shape


@dataclass(frozen=True)
class StressRow:
    """One attack at one strength.

    Attributes:
        attack: its id; ``none`` for pictures as they were drawn.
        strength: in the attack's unit.
        n: pictures.
        found: how many were marked at the level.
        low: lower end of the rate's two-sided 95 % interval (Clopper-Pearson).
        high: upper end.
        payloads: how many payloads were read without an error; None where the scheme carries none.
        median_p: the median p-value.
        psnr: mean, in dB, of attacked pictures against marked ones; None where sizes differ or nothing changed.
    """

    attack: str
    strength: float
    n: int
    found: int
    low: float
    high: float
    payloads: int | None
    median_p: float
    psnr: float | None

    def document(self) -> dict[str, JsonValue]:
        """As JSON values."""
        return asdict(self)


def draw_marked(
    view: View,
    scheme: LatentScheme,
    prompts: Sequence[str],
    *,
    size: int | None,
    steps: int,
    guidance: float,
    seed: int,
) -> Marked:
    """Draws one marked picture for each prompt, all from ``seed``.

    Raises:
        UsageError: no prompts, or the scheme cannot run at this size.
    """
    from watermark.drawing import draw

    if not prompts:
        raise UsageError("a stress test needs one picture at least")
    shape = view.latent_shape(size)
    rng = np.random.default_rng(seed)
    key = MasterKey(hashlib.sha256(f"stress|{seed}".encode()).digest())
    payload = rng.bytes(scheme.capacity(shape).payload_bits // 8)
    nonces = tuple(rng.bytes(NONCE_BYTES) for _ in prompts)
    images = draw(view, scheme, key, nonces, prompts, shape, payload=payload, steps=steps, guidance=guidance)
    return Marked(images, key, nonces, payload, shape)


def stress(
    view: View,
    scheme: LatentScheme,
    marked: Marked,
    attacks: Sequence[tuple[Removal, float]],
    *,
    alpha: float,
    register: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[StressRow]:
    """Attacks pictures and counts what is found: pictures as they are first, then one row an attack.

    Args:
        view: the model that inverts, as a rule the base.
        scheme: that marked them.
        marked: the pictures.
        attacks: with their strengths.
        alpha: level of detection.
        register: whether the detector searches for turns, cuts and scales, and pays for it.
        seed: of the attacks, one more for each picture.
        progress: told how many rows are done.

    Raises:
        UsageError: a level out of the scheme's reach at this size, of which no rate says anything, or as attacks.
    """
    rows, total = [_row(view, scheme, marked, "none", 0.0, marked.images, alpha, register)], 1 + len(attacks)
    seeds = [seed + i for i in range(len(marked.images))]
    for i, (attack, strength) in enumerate(attacks):
        if progress is not None:
            progress(1 + i, total, attack.id)
        attacked = attack.apply(marked.images, strength, seeds)
        rows.append(_row(view, scheme, marked, attack.id, strength, attacked, alpha, register))
    if progress is not None:
        progress(total, total)
    return rows


def _row(
    view: View,
    scheme: LatentScheme,
    marked: Marked,
    attack: str,
    strength: float,
    images: Tensor,
    alpha: float,
    register: bool,
) -> StressRow:
    from watermark.inversion import climb

    trimmed = whole_latents(view, images)
    test = _test(scheme, marked, register)
    found = [reached.detection for reached in climb(view, trimmed, test, alpha, share=scheme.share)]
    decisions = [detection.decide(alpha) for detection in found]
    if all(decision is Decision.INCONCLUSIVE for decision in decisions):
        raise UsageError(f"a level of {alpha:g} is out of reach of {scheme.id} at this size")
    n, hits = len(found), sum(decision is Decision.MARKED for decision in decisions)
    interval = clopper_pearson(hits, n)
    return StressRow(
        attack=attack,
        strength=strength,
        n=n,
        found=hits,
        low=interval.low,
        high=interval.high,
        payloads=sum(each.payload == marked.payload for each in found) if marked.payload else None,
        median_p=float(np.median([detection.p_value for detection in found])),
        psnr=_psnr(marked.images, images),
    )


def _test(scheme: LatentScheme, marked: Marked, register: bool) -> Callable[[Any], Detection]:
    from watermark.registration import searching

    held = scheme.capacity(marked.shape)
    # Schemes that cannot be read blindly are given the log of all pictures.
    logged = () if held.nonce_bits else marked.nonces

    def plain(latents: Any) -> Detection:
        return scheme.detect(whole_picture(latents, marked.shape), marked.key, nonces=logged)

    return searching(plain, marked.shape) if register else plain


def whole_picture(latents: Any, shape: Shape) -> Any:
    """Latents of ``shape``: less than a whole picture is taken for its upper left corner, where no search is made."""
    from watermark.registration import Change, undone

    return latents if latents.shape == shape else undone(latents, Change(), *shape[1:])


def whole_latents(view: View, images: Tensor) -> Tensor:
    """Pictures without what goes beyond a whole number of latents at the right and at the bottom."""
    from auditor.pipeline.families.family import vae_factor

    multiple = vae_factor(view.components) * view.components.kind.patch(view.components)
    height, width = (side // multiple * multiple for side in images.shape[-2:])
    if not height or not width:
        raise UsageError("an attack leaves less of a picture than one latent")
    return images[..., :height, :width]


def _psnr(before: Tensor, after: Tensor) -> float | None:
    if before.shape != after.shape:
        return None
    error = float(((before - after) / 2).square().mean())
    return float(-10 * np.log10(error)) if error > 0 else None
