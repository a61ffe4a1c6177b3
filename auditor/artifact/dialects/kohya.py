"""kohya / A1111 LoRA: ``lora_unet_down_blocks_0_..._to_q.lora_down.weight`` with ``.alpha`` beside it.

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
from auditor.artifact.dialects.collect import Collected, Collector, Context, Role
from auditor.artifact.family import SIGNATURES, expected_modules
from auditor.artifact.original_names import original_module, t5_component
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
_ROLES: dict[str, Role] = {
    "lora_down.weight": "down",
    "lora_up.weight": "up",
    "lora_mid.weight": "mid",
    "alpha": "alpha",
    "dora_scale": "magnitude",
    "diff": "dense",
}
_BUNDLED = re.compile(r"bundle_emb\.(?P<token>.+)\.(?P<part>string_to_param\.\*|emb_params|clip_l|clip_g)")


def recognises(source: TensorSource) -> bool:
    """Whether any key has a kohya prefix and the ending of a low-rank factor or a full difference."""
    endings = (".lora_down.weight", ".lora_up.weight", ".diff")
    return any(name.startswith(tuple(_PREFIXES)) and name.endswith(endings) for name in source.specs)


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
        prefix = next((p for p in _PREFIXES if name.startswith(p)), None)
        role = _ROLES.get(ending)
        if prefix is None or role is None:
            collector.left.append(key)
            continue
        flat = name[len(prefix) :]
        component = third if prefix == "lora_te3_" else _PREFIXES[prefix]
        component, path = _place(component, flat, given)
        spread = original_module(flat, flat=True) if prefix == "lora_unet_" and not path else None
        if spread is not None:
            collector.add_original(flat, spread, role, key)
        elif path:
            collector.add(component, path, role, key)
        else:
            collector.left.append(key)
    return collector.finish()


def _place(component: str, flat: str, given: Mapping[str, Mapping[str, str]]) -> tuple[str, str]:
    for place in ("unet", "transformer") if component == "unet" else (component,):
        path = flattened_modules(place).get(flat) or given.get(place, {}).get(flat)
        if path is not None:
            return place, path
    return component, ""


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
