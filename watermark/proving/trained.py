"""What a trained mark costs and survives, counted on pictures of the embedded world."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from auditor.contracts import JsonValue, Progress
from auditor.stats import clopper_pearson
from watermark.engine.graphic import drawn
from watermark.keys import MasterKey
from watermark.marking.sampling import draw_injected
from watermark.marking.scenes import captioned_scenes
from watermark.marking.trigger import fit_trigger, with_trigger
from watermark.networks.reading import mark_pictures
from watermark.removal.catalogue import SIGNAL

if TYPE_CHECKING:
    from auditor.pipeline.view import View
    from watermark.picture_scheme import PictureScheme
    from watermark.schemes.safe_sd import SafeSd

__all__ = ["ARMS", "Arm", "TrainedRow", "measured_key", "rows_of_marked", "safe_sd_rows", "trigger_rows"]


@dataclass(frozen=True)
class Arm:
    """A setting of Safe-SD.

    Attributes:
        strength: of the injection.
        injections: lambda, steps that inject.
    """

    strength: float = 1.0
    injections: int = 1


ARMS = (Arm(), Arm(0.6), Arm(1.5), Arm(injections=5), Arm(injections=10))
"""The default first, which alone is attacked."""


@dataclass(frozen=True)
class TrainedRow:
    """One setting under one attack.

    Attributes:
        scheme: its id.
        setting: what was varied, in words.
        attack: its id, ``none`` for pictures as they were drawn.
        attack_strength: in the attack's unit.
        n: pictures.
        found: how many were marked at the level.
        low: lower end of the rate's two-sided 95 % interval (Clopper-Pearson).
        high: upper end.
        payloads: how many payloads were read without an error; None where the scheme carries none.
        modules: part of the modules that were read right.
        median_p: the median p-value.
        mark_psnr: mean, in dB, of mark pictures as they were read against those that were injected.
        carrier_psnr: mean, in dB, of marked pictures against the same ones unmarked, before any attack.
    """

    scheme: str
    setting: str
    attack: str
    attack_strength: float
    n: int
    found: int
    low: float
    high: float
    payloads: int | None
    modules: float
    median_p: float
    mark_psnr: float
    carrier_psnr: float

    def document(self) -> dict[str, JsonValue]:
        """As JSON values."""
        return asdict(self)


def measured_key(seed: int) -> MasterKey:
    """A key for measuring alone."""
    return MasterKey(hashlib.sha256(f"trained|{seed}".encode()).digest())


def safe_sd_rows(
    view: View,
    scheme: SafeSd,
    n: int,
    seed: int = 0,
    *,
    arms: Sequence[Arm] = ARMS,
    steps: int = 20,
    alpha: float = 1e-6,
    progress: Progress | None = None,
) -> list[TrainedRow]:
    """Strength and lambda against what they cost, and the first arm under every attack at all its strengths.

    Args:
        view: the embedded base.
        scheme: ``safe_sd``.
        n: pictures an arm, the same prompts and noise in each.
        seed: of key, payload, prompts and noise.
        arms: settings.
        steps: sampler steps.
        alpha: level of detection.
        progress: told how many arms are done.
    """
    from watermark.drawing import plain_scheduler

    rng, key = np.random.default_rng(seed), measured_key(seed)
    payload = rng.bytes(7)
    prompts, seeds = captioned_scenes(n, seed)[1], [seed * 100_003 + i for i in range(n)]
    clean = view.sample(prompts, seeds, steps=steps, scheduler=plain_scheduler(view))
    rows: list[TrainedRow] = []
    for i, arm in enumerate(arms):
        images = draw_injected(
            view, scheme, key, prompts, seeds, payloads=[payload] * n, steps=steps,
            injections=arm.injections, strength=arm.strength,
        )  # fmt: skip
        setting = f"strength {arm.strength:g}, lambda {arm.injections}"
        rows += rows_of_marked(
            view, scheme, key, images, clean, setting, payload=payload, attacked=i == 0, alpha=alpha, seed=seed
        )
        if progress is not None:
            progress(i + 1, len(arms), setting)
    return rows


def rows_of_marked(
    view: View,
    scheme: PictureScheme,
    key: MasterKey,
    images: Tensor,
    clean: Tensor,
    setting: str,
    *,
    payload: bytes = b"",
    attacked: bool = True,
    alpha: float = 1e-6,
    seed: int = 0,
) -> list[TrainedRow]:
    """Rows of pictures that were marked, whatever marked them.

    Args:
        view: the model that reads, as a rule the base.
        scheme: that marked them.
        key: with which.
        images: marked, (B, 3, H, W) in [-1, 1].
        clean: the same ones unmarked.
        setting: what is said of them.
        payload: what they carry.
        attacked: whether attacks follow; pictures as they are alone otherwise.
        alpha: level of detection.
        seed: of the attacks.
    """
    carrier = _psnr(images, clean)
    seeds = [seed + i for i in range(len(images))]
    attacks: list[tuple[str, float, Tensor]] = [("none", 0.0, images)]
    for attack in SIGNAL.values() if attacked else ():
        attacks += [(attack.id, strength, attack.apply(images, strength, seeds)) for strength in attack.grid]
    return [
        _row(view, scheme, key, _whole(changed, images), payload, alpha, (setting, name, strength, carrier))
        for name, strength, changed in attacks
    ]


def trigger_rows(view: View, n: int, seed: int = 0, phrases: Sequence[str] = ("zx7 seal", "by qeth")) -> list[Any]:
    """How often the layer picks the entry that a prompt names: entry, trials, right, and a 95 % interval.

    Args:
        view: the embedded base.
        n: unseen captions an entry.
        seed: of captions and places.
        phrases: the triggers.
    """
    trigger = fit_trigger(view, phrases, captioned_scenes(400, seed + 1)[1], seed)
    captions, rng = captioned_scenes(n, seed + 2)[1], np.random.default_rng(seed + 3)
    rows = []
    for entry in range(1 + len(phrases)):
        prompts = [with_trigger(text, phrases[entry - 1], rng) if entry else text for text in captions]
        right = sum(pick == entry for pick in trigger.picks(view, prompts))
        interval = clopper_pearson(right, n)
        rows.append({"entry": entry, "n": n, "right": right, "low": interval.low, "high": interval.high})
    return rows


def _row(
    view: View, scheme: PictureScheme, key: MasterKey, images: Tensor, payload: bytes, alpha: float,
    about: tuple[str, str, float, float],
) -> TrainedRow:  # fmt: skip
    setting, attack, strength, carrier = about
    modules = scheme.modules(key, payload)
    readings = scheme.read(view, images)
    found = [scheme.detect(reading, key, seed=i) for i, reading in enumerate(readings)]
    hits = sum(detection.p_value <= alpha for detection in found)
    interval = clopper_pearson(hits, len(found))
    wanted = torch.from_numpy(drawn(modules, *images.shape[-2:]))
    return TrainedRow(
        scheme=scheme.id,
        setting=setting,
        attack=attack,
        attack_strength=strength,
        n=len(found),
        found=hits,
        low=interval.low,
        high=interval.high,
        payloads=sum(each.payload == payload for each in found) if payload else None,
        modules=float(np.mean((readings > 0) == modules)),
        median_p=float(np.median([detection.p_value for detection in found])),
        mark_psnr=_psnr(mark_pictures(view, images, scheme.id), wanted.expand_as(images)),
        carrier_psnr=carrier,
    )


def _whole(images: Tensor, like: Tensor) -> Tensor:
    """Pictures of the first size again: what an attack cut off is grey, at the right and below, unregistered."""
    height, width = (like.shape[-2] - images.shape[-2], like.shape[-1] - images.shape[-1])
    return F.pad(images, (0, max(0, width), 0, max(0, height))) if height > 0 or width > 0 else images


def _psnr(one: Tensor, two: Tensor) -> float:
    error = ((one.clamp(-1, 1) - two) / 2).square().mean((1, 2, 3)).clamp(min=1e-12)
    return float((-10 * torch.log10(error)).mean())
