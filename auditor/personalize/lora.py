"""Low-rank layers on a loaded base: put in by PEFT, trained, read out, taken out again without a trace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from auditor.artifact.safetensors_write import write_arrays
from auditor.personalize.blocks.saving import make_folder
from auditor.pipeline.components import Components
from auditor.pipeline.loading import looks_ahead

__all__ = ["ATTENTION", "TEXT_ATTENTION", "clip_encoders", "injected", "lora_state", "save_diffusers_lora"]

# The second four are there where text and image have projections of their own in one attention: SD3 and Flux.
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
TEXT_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")
_NAME = "default"


@contextmanager
def injected(
    model: nn.Module, rank: int, alpha: float, targets: tuple[str, ...], seed: int
) -> Iterator[list[nn.Parameter]]:
    """Puts fresh LoRA layers on ``model`` for the length of the block.

    Args:
        model: UNet or text encoder; its own weights are frozen and come back exactly.
        rank: r.
        alpha: numerator of the scale alpha / r.
        targets: endings of the module names that get a layer.
        seed: for the random factor (the other starts at zero).

    Yields:
        The trainable parameters, float32 whatever the base's type.
    """
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=list(targets), init_lora_weights="gaussian", bias="none"
    )
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inject_adapter_in_model(config, model, adapter_name=_NAME)
        layers = [parameter for name, parameter in model.named_parameters() if "lora_" in name]
        for layer in layers:
            # Steps of an optimiser are lost in half precision.
            layer.data = layer.data.float()
        yield layers
    finally:
        _take_out(model)


def clip_encoders(base: Components) -> dict[str, nn.Module]:
    """The text encoders of CLIP's kind, which files of adapters have names for: all but T5."""
    return {name: encoder for name, encoder in base.text_encoders.items() if not looks_ahead(encoder)}


def lora_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Factors as PEFT names them (``<module>.lora_A.weight``), float32 on the CPU."""
    return {
        name.replace(f".{_NAME}.", "."): value.detach().float().cpu().contiguous().clone()
        for name, value in model.state_dict().items()
        if "lora_" in name
    }


def save_diffusers_lora(
    folder: Path,
    unet: Mapping[str, torch.Tensor],
    text_encoder: Mapping[str, torch.Tensor],
    rank: int,
    alpha: float,
    metadata: Mapping[str, str],
    denoiser: str = "unet",
    text_encoder_2: Mapping[str, torch.Tensor] | None = None,
) -> Path:
    """Writes ``pytorch_lora_weights.safetensors`` as diffusers' ``load_lora_weights`` reads it, float16.

    The scale alpha / rank is folded into the second factor: loaders of this naming ignore stored alphas.

    Args:
        folder: made if it is not there.
        unet: factors of the denoiser.
        text_encoder: factors of the first text encoder; may be empty.
        rank: r.
        alpha: numerator of the scale.
        metadata: strings for the header.
        denoiser: ``unet`` or ``transformer``, what the file calls the denoiser.
        text_encoder_2: factors of the second text encoder, if any.

    Raises:
        OutputError: the file is there already, or cannot be written.
    """
    out = {}
    texts = {"text_encoder": text_encoder, "text_encoder_2": text_encoder_2 or {}}
    for prefix, state in ((denoiser, unet), *texts.items()):
        for key, value in state.items():
            # transformers 5 dropped the wrapper's name that files on hubs carry.
            bare = prefix in texts and not key.startswith("text_model.")
            name = f"{prefix}.text_model.{key}" if bare else f"{prefix}.{key}"
            scale = alpha / rank if key.endswith("lora_B.weight") else 1.0
            out[name] = (value * scale).half().numpy()
    make_folder(folder)
    return write_arrays(folder / "pytorch_lora_weights.safetensors", out, {"format": "pt", **metadata})


def _take_out(model: nn.Module) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
    model.requires_grad_(False)
