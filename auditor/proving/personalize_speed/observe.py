"""Which networks one training step asks, with what, and whether gradients go back through them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from auditor.pipeline.components import Components

__all__ = ["Call", "observed", "tables_reached"]


@dataclass(frozen=True)
class Call:
    """One evaluation of a network.

    Attributes:
        component: ``unet``, ``vae`` or the name of a text encoder.
        network: the module itself, with whatever was put into it.
        args: what it was given; tensors are detached, and need gradients where they did.
        kwargs: likewise.
        graded: whether gradients go back through it.
        autocast: the arithmetic's type inside an autocast block.
    """

    component: str
    network: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    graded: bool
    autocast: torch.dtype | None

    def again(self) -> Tensor:
        """Evaluates once more; the first tensor of what comes out."""
        device = next(self.network.parameters()).device.type
        with (
            torch.set_grad_enabled(self.graded),
            torch.autocast(device, self.autocast or torch.bfloat16, enabled=self.autocast is not None),
            tables_reached([self.network] if self.graded else []),
        ):
            return _first_tensor(self.network(*self.args, **self.kwargs))


@contextmanager
def observed(base: Components) -> Iterator[list[Call]]:
    """Writes down every evaluation inside the block, of the components as they stand now.

    One that is broken off, because a method has seen enough of it, is there as one without gradients.
    """
    calls: list[Call] = []
    with ExitStack() as stack:
        for component, module in base.modules.items():
            # The autoencoder is not called itself; of it only pictures to latents is training's business.
            network: nn.Module = module.encoder if component == "vae" else module  # type: ignore[assignment]
            begun, ended = _keepers(calls, component)
            stack.callback(network.register_forward_pre_hook(begun, with_kwargs=True).remove)
            stack.callback(network.register_forward_hook(ended).remove)
        yield calls


@contextmanager
def tables_reached(networks: Iterable[nn.Module]) -> Iterator[None]:
    """Inside the block what text encoders read off their token tables needs gradients, as a learned word's vector does.

    Ids that are in no table, of learned words, read the first row. Networks of other kinds are left alone.
    """

    def ordinary(table: nn.Embedding, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0].masked_fill(args[0] >= len(table.weight), 0), *args[1:])

    def reach(_: nn.Module, __: Any, out: Tensor) -> Tensor:
        return out if out.requires_grad or not torch.is_grad_enabled() else out.detach().requires_grad_(True)

    with ExitStack() as stack:
        for network in networks:
            if hasattr(network, "get_input_embeddings"):
                encoder: Any = network
                table = encoder.get_input_embeddings()
                stack.callback(table.register_forward_pre_hook(ordinary).remove)
                stack.callback(table.register_forward_hook(reach).remove)
        yield


def _first_tensor(out: Any) -> Tensor:
    """What a network says first, whatever it is wrapped in."""
    found: Tensor = out if isinstance(out, Tensor) else out[0]
    return found


def _keepers(calls: list[Call], component: str) -> tuple[Callable[..., None], Callable[..., None]]:
    def begun(network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        device = next(network.parameters()).device.type
        cast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        calls.append(Call(component, network, _kept(args), _kept(kwargs), False, cast))

    def ended(network: nn.Module, _: tuple[Any, ...], out: Any) -> None:
        place = max(i for i, call in enumerate(calls) if call.network is network)
        calls[place] = replace(calls[place], graded=_first_tensor(out).requires_grad)

    return begun, ended


def _kept(value: Any) -> Any:
    match value:
        case Tensor():
            return value.detach().requires_grad_(value.requires_grad)
        case dict():
            return {key: _kept(each) for key, each in value.items()}
        case tuple() | list():
            return type(value)(_kept(each) for each in value)
        case _:
            return value
