"""The names of the original Flux and SD3 code, spelled out: ``diffusion_model.double_blocks.0.img_attn.qkv``.

ComfyUI and ai-toolkit write it with the prefix ``diffusion_model.``, Black Forest Labs without any, PEFT with
``base_model.model.``; XLabs names its attention processors (``double_blocks.0.processor.qkv_lora1.down``).
ComfyUI keeps text encoders under ``text_encoders.``. The names of the parts are those of diffusers naming.
"""

from __future__ import annotations

from auditor.artifact.dialects.collect import Collected, Collector, Context, Role
from auditor.artifact.dialects.diffusers import PEFT_PREFIX, normal_path, parse_part, peft_scaling
from auditor.artifact.dialects.roles import split_path
from auditor.artifact.original_names import original_module, t5_component
from auditor.artifact.tensors import TensorSource

NAME = "original"

__all__ = ["NAME", "collect", "recognises"]

_PREFIXES = ("model.diffusion_model.", "diffusion_model.", PEFT_PREFIX, "transformer.")
_ENCODERS = {
    "text_encoders.clip_l.transformer.": "text_encoder",
    "text_encoders.clip_g.transformer.": "text_encoder_2",
    "text_encoders.t5xxl.transformer.": "text_encoder_3",
}
# A normalisation of queries or keys is stored whole, as its new weight under another name.
_NORM = "_norm.scale"
# Parts that go with others, or that other namings have too.
_NOT_TELLING = ("weight", "alpha", "magnitude", "scalar", "rescale", "mid")


def recognises(source: TensorSource) -> bool:
    """Whether any key is a part of a change of a block of the original code."""
    for name in source.specs:
        path, role = _parsed(name)
        telling = role is not None and role not in _NOT_TELLING and "_blocks." in path
        if telling and original_module(path) is not None:
            return True
    return False


def collect(source: TensorSource, context: Context) -> Collected:
    """Reads original names. Names that the original code does not have are left unmatched."""
    collector = Collector(source)
    for key in source.specs:
        encoder = next((prefix for prefix in _ENCODERS if key.startswith(prefix)), None)
        if encoder is not None:
            component = _ENCODERS[encoder]
            if component == "text_encoder_3":
                component = t5_component(source.specs, context.base)
            found = parse_part(key[len(encoder) :])
            if found is not None:
                collector.add(component, normal_path(component, found[0], found[1]), found[2], key)
                continue
        path, role = _parsed(key)
        spread = original_module(path)
        if role is None or spread is None:
            collector.left.append(key)
        else:
            collector.add_original(path, spread, role, key)
    return collector.finish(peft_scaling(source.metadata, context, collector))


def _parsed(key: str) -> tuple[str, Role | None]:
    """The module path without a prefix, and which part of its change the key is."""
    prefix = next((prefix for prefix in _PREFIXES if key.startswith(prefix)), "")
    rest = key[len(prefix) :]
    if rest.endswith(_NORM):
        return rest.removesuffix(".scale"), "weight"
    found = parse_part(rest)
    if found is not None:
        return (found[0], found[2]) if found[1] is None else (rest, None)
    return split_path(rest) or (rest, None)
