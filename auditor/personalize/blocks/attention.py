"""Cross-attention, recorded while it happens, or given one text for its keys and another for its values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from auditor.pipeline.components import Components

__all__ = ["AttentionMaps", "cross_attention", "recorded", "values_from"]


def cross_attention(base: Components) -> list[tuple[str, Any]]:
    """All cross-attention layers of a UNet with their paths, in order."""
    return [
        (name, module) for name, module in base.modules["unet"].named_modules() if name.endswith("attn2")
    ]


@dataclass
class AttentionMaps:
    """Maps of one evaluation: path of the layer to (B, heads, pixels, tokens), rows sum to one, with gradients."""

    maps: dict[str, Tensor] = field(default_factory=dict)

    def of_token(self, position: Tensor, side: int) -> Tensor:
        """Mean over layers and heads of the maps of one token, each scaled to a square.

        Args:
            position: int64 (B,), where the token stands in each row.
            side: the square's side.

        Returns:
            (B, side, side), not negative.
        """
        scaled = []
        for probabilities in self.maps.values():
            one = probabilities.mean(1)[torch.arange(len(position)), :, position]
            edge = int(one.shape[1] ** 0.5)
            square = one.reshape(len(one), 1, edge, edge)
            scaled.append(nn.functional.interpolate(square, (side, side), mode="bilinear", align_corners=False))
        return torch.stack(scaled).mean(0)[:, 0]


@contextmanager
def recorded(base: Components, only: bool = False) -> Iterator[AttentionMaps]:
    """Records every cross-attention map of the evaluations inside the block; a later one replaces an earlier one.

    Maps are worked out beside the model from the same queries and keys, so that the model itself takes its usual path.

    Args:
        base: with a UNet.
        only: nothing but the maps is wanted: the block ends, without an error, as soon as the last of them is there.
    """
    found, held = AttentionMaps(), {}
    layers = cross_attention(base)
    with ExitStack() as stack:
        if only:
            stack.enter_context(suppress(_AllSeenError))
        for name, layer in layers:

            def keep(part: str, name: str = name, layer: Any = layer) -> Any:
                def hook(_: nn.Module, __: tuple[Tensor, ...], out: Tensor) -> None:
                    held[name, part] = out
                    if (name, "k") in held and (name, "q") in held:
                        query, key = held.pop((name, "q")), held.pop((name, "k"))
                        found.maps[name] = _probabilities(query, key, int(layer.heads), float(layer.scale))
                        if only and len(found.maps) == len(layers):
                            raise _AllSeenError

                return hook

            stack.callback(layer.to_q.register_forward_hook(keep("q")).remove)
            stack.callback(layer.to_k.register_forward_hook(keep("k")).remove)
        yield found


class _AllSeenError(Exception):
    """Ends an evaluation of which nothing more is wanted."""


@contextmanager
def values_from(base: Components, states: Tensor) -> Iterator[None]:
    """Inside the block every cross-attention takes its values from ``states`` (B, L, D) and its keys as before."""

    def swap(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (states.to(args[0].dtype), *args[1:])

    with ExitStack() as stack:
        for _, layer in cross_attention(base):
            stack.callback(layer.to_v.register_forward_pre_hook(swap).remove)
        yield


def _probabilities(query: Tensor, key: Tensor, heads: int, scale: float) -> Tensor:
    def split(states: Tensor) -> Tensor:
        return states.reshape(*states.shape[:-1], heads, -1).transpose(1, 2).float()

    return (split(query) @ split(key).transpose(-1, -2) * scale).softmax(-1)
