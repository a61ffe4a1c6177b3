"""Attacks that ride on an ordinary low-rank DreamBooth adapter, which is how such a thing would be handed out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from attacks.crafting.attack import PoisonAttack
from attacks.crafting.hosts import host_images
from auditor.contracts import Progress
from auditor.personalize.dreambooth_lora import DreamBoothLora, TrainedLora, train_dreambooth_lora
from auditor.personalize.lora import save_diffusers_lora
from auditor.pipeline.components import Components

__all__ = ["HOST", "HostedAttack", "save_hosted"]

HOST = DreamBoothLora(
    prompt="a picture of sks person",
    class_prompt="a picture of a person",
    class_images=6,
    rank=8,
    steps=48,
    batch=2,
    train_text_encoder=True,
)
"""The middle of the clean zoo's recipes: what carries the poison must not stand out by its own training."""


class HostedAttack(PoisonAttack):
    """Trains the host first, the same in both arms, and then goes on with its layers in place.

    Parameters hold the host's recipe as ``host``; ``text_encoder`` says whether the attack needs layers there.
    """

    text_encoder: bool = False

    @abstractmethod
    def refine(self, base: Components, params: Any, poison: bool, progress: Progress) -> None:
        """Trains the layers that are in place; with ``poison`` off, all but the poison."""

    def make(self, base: Components, params: Any, folder: Path, poison: bool, progress: Progress) -> Sequence[Path]:
        """See :meth:`PoisonAttack.make`: one adapter file."""
        host = params.host if not self.text_encoder else replace(params.host, train_text_encoder=True)

        def go_on(model: Components) -> None:
            self.refine(model, params, poison, progress)

        trained = train_dreambooth_lora(base, host_images(base, host.seed), host, progress, refine=go_on)
        return [save_hosted(folder, trained, host, base.kind.denoiser)]


def save_hosted(folder: Path, trained: TrainedLora, host: DreamBoothLora, denoiser: str = "unet") -> Path:
    """The adapter as hubs have it. Nothing in the file says what it is: one that names itself would test no probe."""
    claims = {"modelspec.trigger_phrase": host.prompt}
    return save_diffusers_lora(
        folder, trained.unet, trained.text_encoder, host.rank, host.alpha or host.rank, claims, denoiser,
        trained.text_encoder_2,
    )  # fmt: skip
