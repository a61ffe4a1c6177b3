"""diffusers and PEFT naming: the module path spelled out, then the name of the part.

Covers what diffusers has written over the years (``lora_A``, ``lora.down``, ``processor.to_q_lora.down``,
``lora_linear_layer.down``), with or without a component prefix, and the keys inside a PEFT folder, which have
the prefix ``base_model.model.`` and take ranks and alphas from ``adapter_config.json``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from auditor.artifact.adapter import COMPONENTS
from auditor.artifact.dialects.collect import Collected, Collector, Context, Role, Scale, Scaling
from auditor.artifact.dialects.roles import split_path
from auditor.artifact.original_names import t5_component
from auditor.artifact.tensors import TensorSource

NAME = "diffusers"

__all__ = [
    "METADATA_KEY",
    "NAME",
    "PEFT_PREFIX",
    "collect",
    "normal_path",
    "parse_adapter_metadata",
    "parse_part",
    "pattern_value",
    "peft_scaling",
    "recognises",
]

METADATA_KEY = "lora_adapter_metadata"
PEFT_PREFIX = "base_model.model."

_PART = re.compile(
    r"(?P<path>.+?)\."
    r"(?:processor\.)?(?:(?P<old>to_(?:q|k|v|out))_lora\.)?"
    r"(?P<part>"
    r"lora_A(?:\.[A-Za-z0-9_]+)?\.weight|lora_B(?:\.[A-Za-z0-9_]+)?\.weight|"
    r"lora\.down\.weight|lora\.up\.weight|lora_linear_layer\.down\.weight|lora_linear_layer\.up\.weight|"
    r"lora_down\.weight|lora_up\.weight|lora_mid\.weight|down\.weight|up\.weight|"
    r"lora_magnitude_vector(?:\.[A-Za-z0-9_]+)?(?:\.weight)?|dora_scale|alpha)"
)
_SIMPLE: dict[str, Role] = {"alpha": "alpha", "dora_scale": "magnitude", "lora_mid.weight": "mid"}
_UNET_START = re.compile(
    r"(?:down_blocks|up_blocks|mid_block|conv_in|conv_norm_out|conv_out|time_embedding|add_embedding)\b"
)
_TRANSFORMER_START = re.compile(
    r"(?:(?:single_)?transformer_blocks\.\d|(?:x_embedder|context_embedder|time_text_embed|norm_out|proj_out)\.)"
)
_TEXT_START = re.compile(r"(?:text_model\.|text_projection\b|encoder\.layers\.\d)")
_T5_START = "encoder.block."
# What PEFT takes where a config is silent.
_PEFT_ALPHA = 8
_LARGEST_RANK = 1 << 20
_LITERAL = re.compile(r"[A-Za-z0-9_.\-]+")
_LONGEST_JSON = 4 << 20
# CLIP-G, the second encoder of SDXL, is the only text encoder of ours that is this wide.
_SECOND_ENCODER_WIDTH = 1280


def recognises(source: TensorSource) -> bool:
    """Whether any key ends in the name of a part of a change behind a dotted module path."""
    return any(_is_factor(name) for name in source.specs)


def collect(source: TensorSource, context: Context) -> Collected:
    """Reads diffusers or PEFT naming; in a PEFT folder plain ``weight`` and ``bias`` keys are overwrites."""
    collector = Collector(source)
    peft = context.config is not None
    for key in source.specs:
        component, rest = _component(key, source, context)
        found = parse_part(rest)
        if component and found:
            path, old, role = found
            collector.add(component, normal_path(component, path, old), role, key)
        elif component and (part := _lycoris_part(rest, key, source)):
            collector.add(component, normal_path(component, part[0]), part[1], key)
        elif component and peft and rest.endswith((".weight", ".bias")) and ".lora_" not in rest:
            path, _, last = rest.rpartition(".")
            collector.add(
                component, normal_path(component, path), "weight" if last == "weight" else "bias", key
            )
        else:
            collector.left.append(key)
    if not peft and any(k.endswith(".alpha") for roles in collector.parts.values() for k in roles.values()):
        collector.note(
            "dialect.alpha_keys", "alpha is stored beside diffusers names, where some loaders ignore it"
        )
    return collector.finish(peft_scaling(source.metadata, context, collector))


def normal_path(component: str, path: str, old: str | None = None) -> str:
    """The module path in today's diffusers naming.

    Args:
        component: the component it belongs to.
        path: the path as written, with or without ``text_model.``, ``processor`` already taken off.
        old: the projection of the attention-processor naming (``to_q`` ... ``to_out``), if that was used.
    """
    if component.startswith("text_encoder"):
        if old is not None:
            path = f"{path}.{'out' if old == 'to_out' else old[-1]}_proj"
        return (
            f"text_model.{path}"
            if path.startswith(("encoder.layers.", "final_layer_norm", "embeddings."))
            else path
        )
    if old is not None:
        path = f"{path}.{'to_out.0' if old == 'to_out' else old}"
    return f"{path}.0" if path.endswith(".to_out") else path


def parse_adapter_metadata(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The JSON object under ``lora_adapter_metadata``; empty if absent, too long or malformed."""
    text = metadata.get(METADATA_KEY, "")
    if not text or len(text) > _LONGEST_JSON:
        return {}
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {}


def parse_part(name: str) -> tuple[str, str | None, Role] | None:
    """Module path, old projection name (``to_q`` ... ``to_out``) or None, and role; None for another ending."""
    found = _PART.fullmatch(name)
    return (found["path"], found["old"], _role(found["part"])) if found else None


def _is_factor(name: str) -> bool:
    found = parse_part(name)
    if found is None and (part := split_path(name)) is not None:
        return "." in part[0] and part[1] not in ("scalar", "rescale")
    return found is not None and found[2] in ("down", "up") and "." in found[0]


def _lycoris_part(rest: str, key: str, source: TensorSource) -> tuple[str, Role] | None:
    """Module path and part of a key in LyCORIS' words; ``weight`` is one only beside ``on_input``."""
    stem, _, last = key.rpartition(".")
    if last == "weight" and f"{stem}.on_input" in source.specs:
        return rest.rpartition(".")[0], "ia3"
    return split_path(rest)


def _role(part: str) -> Role:
    if part in _SIMPLE:
        return _SIMPLE[part]
    if part.startswith("lora_magnitude_vector"):
        return "magnitude"
    return "down" if part.startswith("lora_A") or "down" in part else "up"


def _component(key: str, source: TensorSource, context: Context) -> tuple[str, str]:
    rest = key.removeprefix(PEFT_PREFIX)
    head, _, tail = rest.partition(".")
    if head in COMPONENTS and tail:
        return head, tail
    if _UNET_START.match(rest):
        return "unet", rest
    if _TRANSFORMER_START.match(rest):
        return "transformer", rest
    if rest.startswith(_T5_START):
        return t5_component(source.specs, context.base), rest
    if _TEXT_START.match(rest):
        return ("text_encoder_2" if _second_encoder(source) else "text_encoder"), rest
    return "", rest


def _second_encoder(source: TensorSource) -> bool:
    """Whether an unprefixed text encoder is the wide one, judged by the factors of its attention."""
    for name, spec in source.specs.items():
        if "self_attn" in name and name.endswith(
            ("lora_A.weight", "lora.down.weight", "lora_linear_layer.down.weight")
        ):
            return spec.shape[-1:] == (_SECOND_ENCODER_WIDTH,)
    return False


def peft_scaling(metadata: Mapping[str, str], context: Context, collector: Collector) -> Scaling:
    """Alphas as PEFT and diffusers keep them: in ``adapter_config.json`` or in the header's metadata."""
    if context.config is not None:
        configs: dict[str, Mapping[str, Any]] = dict.fromkeys(COMPONENTS, context.config)
    else:
        configs = {}
        for key, value in parse_adapter_metadata(metadata).items():
            head, _, tail = key.partition(".")
            if head in COMPONENTS and tail:
                configs.setdefault(head, {})
                configs[head] = {**configs[head], tail: value}
    for config in {id(c): c for c in configs.values()}.values():
        patterns = config.get("alpha_pattern")
        odd = [k for k in patterns if not _LITERAL.fullmatch(str(k))] if isinstance(patterns, dict) else []
        if odd:
            collector.note(
                "peft.pattern", f"alpha_pattern has {len(odd)} regular expressions, read as plain names"
            )

    def scale(component: str, path: str) -> Scale:
        config = configs.get(component, {})
        # LoHa and LoKr say "alpha" where LoRA says "lora_alpha".
        default = config.get("lora_alpha", config.get("alpha", _PEFT_ALPHA)) if config else None
        alpha = pattern_value(config.get("alpha_pattern"), path, default)
        rank = pattern_value(config.get("rank_pattern"), path, config.get("r"))
        inputs = config.get("feedforward_modules")
        on_input = any(path.endswith(str(name)) for name in inputs) if isinstance(inputs, list) else None
        return Scale(alpha, config.get("use_rslora") is True, _whole(rank), on_input)

    return scale


def _whole(rank: float | None) -> int | None:
    return int(rank) if rank is not None and 1 <= rank <= _LARGEST_RANK else None


def pattern_value(patterns: Any, path: str, default: Any) -> float | None:
    """PEFT's rule that a pattern matches the end of a path; patterns are compared as text, never run."""
    value = default
    if isinstance(patterns, dict):
        for pattern, candidate in patterns.items():
            plain = str(pattern).removeprefix("^").removeprefix("text_model.")
            short = path.removeprefix("text_model.")
            if short == plain or short.endswith("." + plain):
                value = candidate
                break
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)
