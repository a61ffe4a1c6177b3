"""Low-rank layers that are in place, as the change they make to a weight, and a new change put into them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from auditor.pipeline.components import Components

__all__ = ["add_layers", "change_of", "key_value_layers", "lend_row", "put_change", "reading"]


def add_layers(model: nn.Module, rank: int, alpha: float, targets: tuple[str, ...], seed: int) -> None:
    """Puts fresh low-rank layers on more modules of a model that carries some already; they leave with those.

    Args:
        model: inside of :func:`auditor.personalize.lora.injected`.
        rank: r.
        alpha: numerator of the scale alpha / r.
        targets: endings of the modules' names; where no module has such a name, nothing is done.
        seed: for the random factor (the other starts at zero).
    """
    from peft import LoraConfig, inject_adapter_in_model

    if not any(name.endswith(targets) for name, _ in model.named_modules()):
        return
    config = LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=list(targets), init_lora_weights="gaussian", bias="none"
    )
    if hasattr(model, "peft_config"):
        del model.peft_config  # it warns of a second adapter, but these are layers of the first
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model, adapter_name="default")
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)


def key_value_layers(base: Components) -> list[Any]:
    """The low-rank layers in place on all projections from token states to keys and values."""
    ends = base.kind.key_value_maps
    return [m for name, m in base.denoiser_model.named_modules() if name.endswith(ends) and hasattr(m, "lora_A")]


def change_of(layer: Any) -> Tensor:
    """``(alpha / r) B A`` of a PEFT layer, float64 (out, in)."""
    a, b, scale = _parts(layer)
    return scale * (b.double() @ a.double())


def put_change(layer: Any, change: Tensor) -> None:
    """Replaces what a PEFT layer adds by the nearest change of its own rank (truncated SVD).

    The first factor keeps the norm that it had: which factor carries how much of the product says nothing.

    Args:
        layer: a low-rank layer of a linear map, in place.
        change: (out, in).
    """
    a, b, scale = _parts(layer)
    left, values, right = torch.linalg.svd(change.double(), full_matrices=False)
    rank = min(len(a), len(values))
    share = a.double().norm() / rank**0.5
    with torch.no_grad():
        a.zero_()
        b.zero_()
        a[:rank] = share * right[:rank]
        b[:, :rank] = left[:, :rank] * values[:rank] / (share * scale)


def reading(states: Tensor, others: Tensor, ridge: float = 0.1) -> Tensor:
    """The direction that answers to some states and hardly to others: ``(C + ridge I)^-1 mean(states)``, of length 1.

    Args:
        states: (N, D).
        others: (M, D), whose second moments are C.
        ridge: added to their diagonal.

    Returns:
        float64 (D,).
    """
    moments = others.double().T @ others.double() / len(others)
    found: Tensor = torch.linalg.solve(moments + ridge * torch.eye(len(moments)).to(moments), states.double().mean(0))
    unit: Tensor = found / found.norm()
    return unit


def lend_row(layer: Any, direction: Tensor, gain: float) -> None:
    """Gives the least important row of a layer's first factor to a direction (in,), and takes it out of the second.

    Training then finds at once what tells inputs apart along it, where a random row would have to be turned first.
    ``gain`` is the new row's length, in units of the others'. A layer of rank 1 has no row to lend.
    """
    a, b, _ = _parts(layer)
    put_change(layer, change_of(layer))
    if len(a) < 2:
        return
    with torch.no_grad():
        a[-1] = gain * a[0].norm() * direction.to(a)
        b[:, -1] = 0


def _parts(layer: Any) -> tuple[Tensor, Tensor, float]:
    (name,) = layer.lora_A.keys()
    return layer.lora_A[name].weight, layer.lora_B[name].weight, float(layer.scaling[name])
