"""What a denoiser's attention to the text gives the picture, layer by layer, at one noise level."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from auditor.pipeline.components import Components
from auditor.pipeline.view import View

__all__ = ["attended", "text_layers"]

_POSITIONS = 64


def text_layers(base: Components) -> list[nn.Module]:
    """The layers through which text reaches the picture: cross-attention, or the joint attention of transformers."""
    ending = "attn2" if base.kind.denoiser == "unet" else ".attn"
    return [module for name, module in base.denoiser_model.named_modules() if name.endswith(ending)]


@torch.no_grad()
def attended(view: View, prompts: Sequence[str], noisy: Tensor, t: int) -> list[Tensor]:
    """Outputs of :func:`text_layers` for prompts that all see the same noisy latent.

    Args:
        view: of the model.
        prompts: B prompts.
        noisy: (C, h, w).
        t: position on the schedule.

    Returns:
        For each layer (B, positions, width), float32 on the CPU, at 64 evenly spread positions of the picture or at all
        where there are fewer: enough to compare, and little to keep of a large model.
    """
    condition = view.encode_prompt(prompts)
    latents = noisy.expand(len(condition), *noisy.shape)
    with _watched(view.components) as seen:
        view.denoiser.predict(latents, torch.full((len(condition),), t, device=noisy.device), condition)
    return [torch.cat(parts) for parts in seen]


@contextmanager
def _watched(base: Components) -> Iterator[list[list[Tensor]]]:
    layers = text_layers(base)
    seen: list[list[Tensor]] = [[] for _ in layers]
    with ExitStack() as stack:
        for layer, kept in zip(layers, seen, strict=True):

            def hook(_: nn.Module, __: Any, out: Any, kept: list[Tensor] = kept) -> None:
                # Joint attention gives the picture's stream first, and then the text's.
                picture = out[0] if isinstance(out, tuple) else out
                stride = max(1, picture.shape[1] // _POSITIONS)
                kept.append(picture[:, ::stride][:, :_POSITIONS].float().cpu())

            stack.callback(layer.register_forward_hook(hook).remove)
        yield seen
