"""Adapters and models that we know but do not read, each with a name and what reading it would take."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from auditor.artifact.dialects.foreign import FOREIGN_TRANSFORMERS
from auditor.errors import UnsupportedArtifact
from auditor.text import inert

__all__ = ["KINDS", "Unsupported", "is_foreign", "name_encoder", "name_unsupported", "refuse"]


@dataclass(frozen=True)
class Unsupported:
    """A kind of file: what a key of it looks like, what it is called, what reading it would take.

    ``telling`` is false where such a key says what the file is *not*, not what it is.
    """

    pattern: re.Pattern[str]
    name: str
    needed: str
    telling: bool = True


def _kind(pattern: str, name: str, needed: str, telling: bool = True) -> Unsupported:
    return Unsupported(re.compile(pattern), name, needed, telling)


_PEFT = "its change has to be rebuilt from its own factors, and from settings in its config"
_TRANSFORMER = "a loader for that transformer family and its module names are needed"
_MODULES = "the module list of its base is needed"
_BESIDE = "it runs beside the base model and does not change its weights"

_FOREIGN = tuple(_kind(pattern, name, _TRANSFORMER) for pattern, name in FOREIGN_TRANSFORMERS)
# Above this share of names that only another transformer has the file is for that one. An adapter of all of
# Chroma has 3 % of them; a few stray keys must not keep a file from being read.
_FOREIGN_TOLERATED = 0.02
_PARTS = "no change in it is complete and for a module of a known base"
_LYCORIS = (
    (r"\.hada_(?:w[12]_[ab]|t[12])$", "LoHa"),
    (r"\.lokr_(?:w[12](?:_[ab])?|t[12])$", "LoKr"),
    (r"\.oft_blocks$", "OFT or BOFT"),
    (r"\.[ab][12]\.weight$", "GLoRA"),
    (r"\.on_input$|\.ia3_l$", "(IA)3"),
    (r"\.(?:diff_b|[wb]_norm)$", "full or norm"),
)

# First match wins: kinds that share key names with another stand before it.
KINDS: tuple[Unsupported, ...] = (
    _kind(r"\.oft_diag|\.oft_R\b|\.boft_[RPs]\b", "an OFT or BOFT adapter as PEFT stores it", _PEFT),
    _kind(
        r"\.vera_lambda_|\.lora_E\b|\.hra_u\b|\.ln_tuning|\.fourierft_|\.randlora_",
        "a PEFT adapter other than LoRA, LoHa, LoKr and IA3",
        _PEFT,
    ),
    _kind(
        r"\.lambda_layer$",
        "a LyCORIS T-LoRA adapter",
        "its change depends on the timestep, and on factors of the base that it does not store",
    ),
    _kind(r"motion_modules?\.", "an AnimateDiff motion module or motion LoRA", "video pipelines are needed"),
    _kind(
        r"^(?:image_proj|ip_adapter)[./]",
        "an IP-Adapter",
        "an image-conditioned pipeline with its image encoder is needed",
    ),
    _kind(
        r"^lora_controlnet$",
        "a ControlNet-LoRA",
        f"{_BESIDE}; its factors are for a ControlNet made from the base",
    ),
    _kind(
        r"(?:controlnet_cond_embedding|controlnet_down_blocks|input_hint_block|zero_convs|^control_model\.|lllite)",
        "a ControlNet",
        _BESIDE,
    ),
    _kind(
        r"^(?:adapter\.)?body\.\d+\.(?:resnets|block1|in_conv)|^adapter\.(?:conv_in|body)",
        "a T2I-Adapter",
        _BESIDE,
    ),
    _kind(
        r"_custom_diffusion\b|custom_diffusion",
        "a Custom Diffusion file",
        "its attention processors have to be mapped",
    ),
    *_FOREIGN,
    _kind(
        r"^(?:transformer|diffusion_model)\.(?:blocks|layers)\.\d",
        "an adapter for a diffusion transformer",
        _TRANSFORMER,
    ),
    _kind(
        r"^(?!.*(?:lora|alpha|diff)).*(?:(?:^|\.)(?:single_)?transformer_blocks|(?:double|single|joint)_blocks)\.\d",
        "the transformer of a model by itself",
        "give the whole model folder",
        False,
    ),
    _kind(
        r"^(?:unet\.)?(?:down_blocks|up_blocks|mid_block)\.",
        "the UNet of a model by itself",
        "give the whole model folder",
        False,
    ),
    _kind(
        r"^(?:text_model|encoder\.layers|transformer\.resblocks)\.",
        "a text encoder by itself",
        "give the whole model folder",
        False,
    ),
    _kind(
        r"^(?:first_stage_model\.)?(?:encoder|decoder)\.(?:down|up|mid|conv_in)",
        "an autoencoder (VAE)",
        "give the whole model",
    ),
    _kind(r"^(?:model\.)?(?:layers|h|block)\.\d+\.", "a language model or another transformer", _TRANSFORMER),
    *(_kind(pattern, f"a LyCORIS {name} adapter", _PARTS, False) for pattern, name in _LYCORIS),
    _kind(r"^(?:lora_|lycoris_)", "an adapter in a naming that no known base has", _MODULES, False),
    _kind(r"\.lora_(?:A|B|down|up)\b", "a LoRA for modules that no known base has", _MODULES, False),
)


# Widths that no CLIP encoder has, and whose they are.
_ENCODERS = {
    2048: "T5-XL or Gemma",
    2304: "Gemma 2",
    2560: "Gemma 3 or Qwen3",
    3584: "Qwen2.5-VL",
    4096: "T5-XXL (SD3, Flux, PixArt) or Llama",
}


def name_encoder(widths: Collection[int]) -> UnsupportedArtifact | None:
    """The error for token vectors of an encoder that no pipeline of ours has, or None."""
    for width in sorted(widths):
        if width in _ENCODERS:
            return UnsupportedArtifact(
                f"these are token vectors of {width} values for a text encoder such as {_ENCODERS[width]}, which is "
                "not supported: a pipeline with that encoder is needed"
            )
    return None


def name_unsupported(names: Collection[str]) -> Unsupported | None:
    """The first known kind of which some key is a sign, or None."""
    return next((kind for kind in KINDS if any(kind.pattern.search(name) for name in names)), None)


def is_foreign(names: Collection[str]) -> bool:
    """Whether more than 2 % of the names are such as only a transformer has that is not read.

    Two transformers may share most of their names and shapes, so that a file for one fits the other in part.
    """
    foreign = sum(any(kind.pattern.search(name) for kind in _FOREIGN) for name in names)
    return foreign > _FOREIGN_TOLERATED * len(names)


def refuse(names: Collection[str], reason: str = "") -> UnsupportedArtifact:
    """The error for a file that no dialect reads: it names the kind, or shows a key of an unknown one.

    Args:
        names: its keys.
        reason: what a dialect that looked at them found wrong; empty if none did.
    """
    kind = name_unsupported(names)
    if kind is not None:
        why = f" ({reason})" if reason and not kind.telling else ""
        return UnsupportedArtifact(f"this is {kind.name}, which is not supported: {kind.needed}{why}")
    if not names:
        return UnsupportedArtifact("the file holds no tensors, so there is nothing to audit")
    shown = inert(min(names), 60)
    return UnsupportedArtifact(
        f"none of the {len(names)} tensor names is of a known adapter or model, '{shown}' for example"
    )
