"""From pictures to modules and back: encode, inject or extract, with a model's own autoencoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from watermark.engine.graphic import drawn, modules_in
from watermark.networks.shipped import safe_sd_for

if TYPE_CHECKING:
    from auditor.pipeline.components import Components
    from auditor.pipeline.view import View

__all__ = ["injected", "mark_latents", "mark_pictures", "modules_read"]

_BATCH = 16


def modules_read(view: View, images: Tensor, scheme: str) -> NDArray[np.float64]:
    """How dark each module is, (B, 21, 21). See :func:`mark_pictures` for what is raised."""
    return np.stack([modules_in(each) for each in mark_pictures(view, images, scheme).double().numpy()])


@torch.no_grad()
def mark_pictures(view: View, images: Tensor, scheme: str) -> Tensor:
    """The mark pictures (B, 3, H, W) that the network sees in pictures (B, 3, H, W) in [-1, 1], on the CPU.

    Raises:
        UsageError: see :func:`watermark.networks.shipped.safe_sd_for`.
    """
    net = safe_sd_for(view.components, scheme)
    latents = _unscaled(view.components, view.encode_image(images))
    return torch.cat([net.extract(part).cpu() for part in torch.split(latents, _BATCH)])


@torch.no_grad()
def mark_latents(components: Components, modules: Any, height: int, width: int) -> Tensor:
    """Unscaled latents (1, C, height, width) of the mark picture of modules (21, 21), sides in latents."""
    vae = components.vae
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    picture = torch.from_numpy(drawn(modules, height * factor, width * factor))[None]
    found: Tensor = vae.encode(picture.to(components.device, vae.dtype)).latent_dist.mean.float()
    return found


@torch.no_grad()
def injected(components: Components, latents: Tensor, mark: Tensor, strength: float, scheme: str) -> Tensor:
    """Scaled latents (B, C, h, w) that carry a mark.

    Args:
        components: the model.
        latents: scaled, (B, C, h, w).
        mark: of :func:`mark_latents`, (1, C, h, w), or one a row.
        strength: 1 for what the networks were trained at.
        scheme: id of the scheme that asks.

    Raises:
        UsageError: see :func:`watermark.networks.shipped.safe_sd_for`.
    """
    net = safe_sd_for(components, scheme)
    raw = _unscaled(components, latents)
    added = net.inject(raw, mark.expand_as(raw), strength) - raw
    return latents + added * float(components.vae.config.scaling_factor)


def _unscaled(components: Components, latents: Tensor) -> Tensor:
    shift = float(getattr(components.vae.config, "shift_factor", None) or 0.0)
    return latents.float() / float(components.vae.config.scaling_factor) + shift
