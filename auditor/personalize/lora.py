"""Low-rank layers on a loaded base: put in through PEFT, trained, read out, taken out again without a trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

__all__ = ["ATTENTION", "TEXT_ATTENTION", "injected", "lora_state", "save_diffusers_lora"]

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
TEXT_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")
_NAME = "default"


@contextmanager
def injected(model: nn.Module, rank: int, alpha: float, targets: tuple[str, ...], seed: int) -> Iterator[list[nn.Parameter]]:
    """Puts fresh LoRA layers on ``model`` for the length of the block.

    Args:
        model: UNet or text encoder; its own weights are frozen and come back exactly.
        rank: r.
        alpha: numerator of the scale alpha / r.
        targets: endings of the module names that get a layer.
        seed: for the random factor (the other starts at zero).

    Yields:
        The trainable parameters.
    """
    from peft import LoraConfig, inject_adapter_in_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets), init_lora_weights="gaussian", bias="none")
        inject_adapter_in_model(config, model, adapter_name=_NAME)
    try:
        yield [parameter for name, parameter in model.named_parameters() if "lora_" in name]
    finally:
        _take_out(model)


def lora_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Factors as PEFT names them (``<module>.lora_A.weight``), float32 on the CPU."""
    return {
        name.replace(f".{_NAME}.", "."): value.detach().float().cpu().contiguous().clone()
        for name, value in model.state_dict().items()
        if "lora_" in name
    }


def save_diffusers_lora(
    folder: Path, unet: dict[str, torch.Tensor], text_encoder: dict[str, torch.Tensor], rank: int, alpha: float, metadata: dict[str, str]
) -> Path:
    """Writes ``pytorch_lora_weights.safetensors`` as diffusers' ``load_lora_weights`` reads it.

    Alphas are stored as tensors beside the factors, so that the scale does not depend on metadata being read.
    """
    from safetensors.torch import save_file

    out: dict[str, Any] = {}
    for prefix, state in (("unet", unet), ("text_encoder", text_encoder)):
        for key, value in state.items():
            # transformers 5 dropped the wrapper's name that files on hubs carry.
            name = f"text_model.{key}" if prefix == "text_encoder" and not key.startswith("text_model.") else key
            out[f"{prefix}.{name}"] = value.half()
    if alpha != rank:
        for key in [key for key in out if key.endswith("lora_A.weight")]:
            out[key.replace("lora_A.weight", "alpha")] = torch.tensor(float(alpha)).half()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "pytorch_lora_weights.safetensors"
    save_file(out, str(path), metadata={"format": "pt", **metadata})
    return path


def _take_out(model: nn.Module) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())
    for attribute in ("peft_config",):
        if hasattr(model, attribute):
            delattr(model, attribute)
    if getattr(model, "_hf_peft_config_loaded", False):
        model._hf_peft_config_loaded = False
    model.requires_grad_(False)
