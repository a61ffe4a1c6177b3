"""What a scheme that writes its mark while a picture is drawn is, beside what every scheme is."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from watermark.keys import MasterKey
from watermark.scheme import Latents, LatentScheme, Shape, fresh_noise, sign_safe

if TYPE_CHECKING:
    from torch import Tensor

    from watermark.scheduler_proxy import Writer

__all__ = ["StepScheme"]


class StepScheme(LatentScheme):
    """A scheme that embeds at ``step``.

    ``embed`` makes what is to be written, of unit mean square, and :meth:`writer` writes it; ``detect`` reads latents
    that were inverted as far as :attr:`LatentScheme.share` says, in which the mark then stands as ``embed`` made it.
    """

    embed_point = "step"

    @abstractmethod
    def writer(self, marks: Tensor) -> Writer:
        """Writes marks (B, C, h, w), as :meth:`embed` made them, into B pictures while they are drawn."""

    def start(self, key: MasterKey, nonce: bytes, shape: Shape) -> Latents:
        """Ordinary noise of the picture's own to draw it from, float32 (C, h, w)."""
        return sign_safe(fresh_noise(key, f"{self.id}|start", nonce, shape))
