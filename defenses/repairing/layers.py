"""Layers of a base with changes on them, and what they are given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auditor.errors import IncompatibleArtifact
from auditor.pipeline.components import Components
from auditor.pipeline.parts import find_module
from auditor.text import inert
from defenses.repairing.adapter_file import Factors, Layer

__all__ = ["inputs_seen", "module_of", "projected", "worn"]


def module_of(components: Components, layer: Layer) -> nn.Module:
    """The base's module of a layer. Raises ``IncompatibleArtifact`` where the base has none."""
    component, path = layer
    model = components.modules.get(component)
    found = find_module(model, path) if model is not None else None
    if found is None:
        raise IncompatibleArtifact(
            f"the base has no {inert(component, 40)} {inert(path, 100)}: is this the base of the adapter?"
        )
    return found[1]


@contextmanager
def worn(components: Components, factors: Mapping[Layer, Factors]) -> Iterator[None]:
    """Inside the block the base wears the changes; it is the same bit for bit afterwards."""
    before: list[tuple[nn.Parameter, Tensor]] = []
    try:
        for layer, (down, up) in factors.items():
            weight = module_of(components, layer).weight
            assert isinstance(weight, nn.Parameter)
            before.append((weight, weight.data))
            change = (up @ down).reshape(weight.shape).to(weight.device)
            weight.data = (weight.data.double() + change).to(weight.data.dtype)
        yield
    finally:
        for weight, data in before:
            weight.data = data


@contextmanager
def inputs_seen(
    components: Components, layers: Iterable[Layer], see: Callable[[Layer, nn.Module, Tensor], None]
) -> Iterator[None]:
    """Inside the block ``see`` is given the input of each layer whenever it is evaluated."""

    def hook(layer: Layer) -> Any:
        def keep(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            see(layer, module, args[0].detach())

        return keep

    with ExitStack() as stack:
        for layer in layers:
            module = module_of(components, layer)
            stack.callback(module.register_forward_pre_hook(hook(layer)).remove)
        yield


def projected(module: nn.Module, x: Tensor, rows: Tensor) -> Tensor:
    """What ``rows`` (r, in) make of a layer's inputs (B, ..., in), or of each patch that a convolution sees: (N, r)."""
    if isinstance(module, nn.Conv2d):
        kernel = rows.reshape(len(rows), -1, *module.kernel_size).to(x)
        padding: Any = module.padding
        out = F.conv2d(x, kernel, None, module.stride, padding, module.dilation, module.groups)
        return out.movedim(1, -1).reshape(-1, len(rows))
    return torch.as_tensor(x @ rows.to(x).T).reshape(-1, len(rows))
