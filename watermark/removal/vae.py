"""Round trips through an autoencoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from watermark.removal.attack import Removal

if TYPE_CHECKING:
    from auditor.pipeline.view import View

__all__ = ["vae_round_trips"]


def vae_round_trips(view: View) -> Removal:
    """The attack with the autoencoder of ``view``, the marking model's own or another."""

    def effect(images: Tensor, times: float, seeds: Sequence[int]) -> Tensor:
        now = images * 2 - 1
        for _ in range(round(times)):
            now = view.decode(view.encode_image(now))
        return (now.to(images) + 1) / 2

    return Removal(
        id="vae",
        goal="Encode with an autoencoder and decode again.",
        unit="round trips",
        grid=(1, 2, 4),
        least=1,
        most=100,
        refs=(
            "X. Zhao et al., Invisible Image Watermarks Are Provably Removable, NeurIPS 2024, arXiv 2306.01953",
        ),
        effect=effect,
    )
