"""kohya / A1111 LoRA and LyCORIS: ``lora_unet_down_blocks_0_..._to_q.lora_down.weight`` with ``.alpha`` beside.

The module path is written with underscores in place of dots, which cannot be undone by rule (``to_q``,
``proj_in``). It is looked up among the flattened paths of every known UNet, in diffusers and in SGM naming,
of the transformers in diffusers naming, and of the text encoders; a base that was named adds its own modules.
The original names of Flux and SD3 (``lora_unet_double_blocks_0_img_attn_qkv``) are a grammar of their own,
and hold for any number of blocks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from auditor.artifact.architectures import UNetPlan, sgm_names
from auditor.artifact.dialects.collect import Collected, Collector, Context
from auditor.artifact.dialects.roles import ENDINGS
from auditor.artifact.family import SIGNATURES, expected_modules
from auditor.artifact.original_names import Spread, original_module, t5_component
from auditor.artifact.tensors import TensorSource

NAME = "kohya"

__all__ = ["NAME", "collect", "flattened_modules", "recognises"]

# sd-scripts calls every denoiser ``unet``, and T5 ``te3`` for Flux as for SD3; others call it ``te2`` for Flux.
_PREFIXES = {
    "lora_unet_": "unet",
    "lora_transformer_": "transformer",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lora_te3_": "text_encoder_3",
}
# LyCORIS' own wrapper does not say which component it wrapped.
_ANY = "lycoris_"
_DENOISER = ("lora_unet_", _ANY)
# Endings that also stand for something else, or only go with others.
_NOT_TELLING = ("alpha", "weight", "scalar", "rescale", "dora_scale", "lora_mid.weight")
_BUNDLED = re.compile(r"bundle_emb\.(?P<token>.+)\.(?P<part>string_to_param\.\*|emb_params|clip_l|clip_g)")


def recognises(source: TensorSource) -> bool:
    """Whether any key has a kohya prefix and the ending of a part of a change."""
    return any(
        name.startswith((*_PREFIXES, _ANY)) and ending in ENDINGS and ending not in _NOT_TELLING
        for name, _, ending in (key.partition(".") for key in source.specs)
    )


def collect(source: TensorSource, context: Context) -> Collected:
    """Reads a kohya file. Names that no known module has are left unmatched."""
    collector = Collector(source)
    given = {
        component: {path.replace(".", "_"): path for path in paths}
        for component, paths in (context.base or {}).items()
    }
    third = t5_component(source.specs, context.base)
    for key in source.specs:
        bundled = _BUNDLED.fullmatch(key)
        if bundled:
            encoder = "text_encoder_2" if bundled["part"] == "clip_g" else "text_encoder"
            collector.add_vectors(bundled["token"], encoder, key)
            continue
        name, _, ending = key.partition(".")
        role = ENDINGS.get(ending)
        component, path = _place(name, given, third) if role is not None else ("", "")
        original = _original(name) if not path else None
        if role is None:
            collector.left.append(key)
        elif original is not None:
            collector.add_original(*original, role, key)
        elif path:
            collector.add(component, path, role, key)
        else:
            collector.left.append(key)
    return collector.finish()


def _place(name: str, given: Mapping[str, Mapping[str, str]], third: str) -> tuple[str, str]:
    """The component and module path of a flattened name; empty where no known module has it."""
    prefix = next((prefix for prefix in (*_PREFIXES, _ANY) if name.startswith(prefix)), "")
    components: tuple[str, ...] = (_PREFIXES.get(prefix, ""),)
    if prefix == "lora_unet_":
        components = ("unet", "transformer")
    elif prefix == "lora_te3_":
        components = (third,)
    elif prefix == _ANY:
        components = tuple(dict.fromkeys(_PREFIXES.values()))
    flat = name.removeprefix(prefix)
    for component in components:
        path = flattened_modules(component).get(flat) or given.get(component, {}).get(flat)
        if path:
            return component, path
    return "", ""


def _original(name: str) -> tuple[str, Spread] | None:
    """The name without its prefix and what it holds, for a module of the original Flux or SD3 code."""
    prefix = next((prefix for prefix in _DENOISER if name.startswith(prefix)), None)
    spread = original_module(name.removeprefix(prefix), flat=True) if prefix is not None else None
    return (name.removeprefix(prefix), spread) if prefix is not None and spread is not None else None


@lru_cache(maxsize=8)
def flattened_modules(component: str) -> Mapping[str, str]:
    """Flattened name to module path over all known families; two families never read one name differently."""
    names: dict[str, str] = {}
    for signature in SIGNATURES:
        names |= {path.replace(".", "_"): path for path in expected_modules(signature, component)}
        # Where a level has one layer only the SGM counter runs differently, and nobody trains such a UNet in
        # that naming.
        plan = signature.denoiser
        if component == "unet" and isinstance(plan, UNetPlan) and plan.layers == 2:
            names |= {sgm.replace(".", "_"): path for sgm, path in sgm_names(plan).items()}
    return names
