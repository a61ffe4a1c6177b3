"""The networks of Safe-SD: an injection convolution and the decoder of the mark, beside a frozen autoencoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["SafeSdNet"]

_HIDDEN = 48


class SafeSdNet(nn.Module):
    """What is learned of Safe-SD. The encoder and the decoder of pictures are the model's own and stay as they are.

    Args:
        latent_channels: of the autoencoder.
        decoder: the mark's decoder, latents to a picture; as a rule it starts as a copy of the model's own.
        post_quant_conv: the convolution in front of it, if the autoencoder has one.
    """

    def __init__(self, latent_channels: int, decoder: nn.Module, post_quant_conv: nn.Module | None) -> None:
        super().__init__()
        both = 2 * latent_channels
        self.fuse = nn.Conv2d(both, latent_channels, 1)
        # The published injection is the 1x1 convolution alone, which cannot see where a picture hides a change.
        self.refine = nn.Sequential(
            nn.Conv2d(both, _HIDDEN, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(_HIDDEN, _HIDDEN, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(_HIDDEN, latent_channels, 3, padding=1),
        )
        self.post_quant_conv = post_quant_conv if post_quant_conv is not None else nn.Identity()
        self.decoder = decoder
        self._begin(latent_channels)

    def inject(self, latents: Tensor, mark: Tensor, strength: float | Tensor = 1.0) -> Tensor:
        """Latents that carry a mark.

        Args:
            latents: unscaled latents of pictures, (N, C, h, w).
            mark: those of mark pictures, the same shape.
            strength: of the mark, 1 for what it was trained at; 0 changes nothing. A tensor broadcasts over rows.
        """
        both = torch.cat([latents, mark], dim=1)
        marked: Tensor = latents + strength * (self.fuse(both) + self.refine(both) - latents)
        return marked

    def extract(self, latents: Tensor) -> Tensor:
        """Mark pictures (N, 3, H, W), about [-1, 1], from unscaled latents (N, C, h, w) of pictures as found."""
        found: Tensor = self.decoder(self.post_quant_conv(latents))
        return found

    def _begin(self, channels: int) -> None:
        """Pictures as they are, plus a little of the mark's latents."""
        identity = torch.eye(channels)[..., None, None]
        last: Any = self.refine[-1]
        with torch.no_grad():
            self.fuse.weight.copy_(torch.cat([identity, 0.4 * identity], dim=1))
            for zeroed in (self.fuse.bias, last.weight, last.bias):
                if zeroed is not None:
                    zeroed.zero_()
