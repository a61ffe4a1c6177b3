"""Puts trainable changes beside the layers of a frozen model, and takes them out without a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from auditor.errors import UsageError

__all__ = ["Change", "adapted", "layers_of", "linear_layers"]

Layer = nn.Linear | nn.Conv2d


class Change(nn.Module):
    """A trainable change of one layer; zero before training, so that the model starts as it was."""

    def forward(self, x: Tensor) -> Tensor:
        """What is added to the layer's output, (..., out) for (..., in) or (B, out, h, w) for (B, in, H, W)."""
        raise NotImplementedError

    def delta(self) -> Tensor:
        """The change of the weight, (out, in) or (out, in, kh, kw), as it stands."""
        raise NotImplementedError


class _Beside(nn.Module):
    def __init__(self, layer: Layer, change: Change) -> None:
        super().__init__()
        self.layer, self.change = layer, change

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        out: Tensor = self.layer(x)
        added: Tensor = self.change(x.float())
        return out + added.to(out.dtype)


def layers_of(model: nn.Module, targets: tuple[str, ...], kind: type[Any] = nn.Linear) -> dict[str, Any]:
    """Path to layer for every layer of a kind whose path ends in one of ``targets``, in the model's order."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, kind) and name.endswith(targets)
    }


def linear_layers(model: nn.Module, targets: tuple[str, ...]) -> dict[str, nn.Linear]:
    """:func:`layers_of` for linear layers."""
    return layers_of(model, targets, nn.Linear)


@contextmanager
def adapted(
    model: nn.Module, targets: tuple[str, ...], make: Callable[[str, Any], Change], kind: type[Any] = nn.Linear
) -> Iterator[dict[str, Change]]:
    """Puts a change beside every matching layer for the length of the block.

    Args:
        model: UNet, transformer or text encoder; its own weights stay frozen and untouched.
        targets: endings of the paths of layers that get one.
        make: builds the change for a path and its layer.
        kind: ``nn.Linear`` or ``nn.Conv2d``.

    Yields:
        Path to change.

    Raises:
        UsageError: no layer of the model has such a path.
    """
    layers = layers_of(model, targets, kind)
    if not layers:
        raise UsageError(f"this model has no layer called {' or '.join(targets)}; the method does not fit its family")
    model.requires_grad_(False)
    changes = {
        name: make(name, layer).to(device=layer.weight.device).requires_grad_(True) for name, layer in layers.items()
    }
    try:
        for name, layer in layers.items():
            _replace(model, name, _Beside(layer, changes[name]))
        yield changes
    finally:
        for name, layer in layers.items():
            _replace(model, name, layer)


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, child = path.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
