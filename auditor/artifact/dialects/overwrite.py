"""Replaced parameters: plain names such as ``down_blocks.0.resnets.0.norm1.weight``, with the new value.

ResAdapter (arXiv:2403.02084) ships its normalisation layers this way. Only part of a model may be there; a
whole one is a model, not an adapter.
"""

from __future__ import annotations

from collections.abc import Iterator

from auditor.artifact.architectures import ModuleShapes
from auditor.artifact.dialects.collect import Collected, Collector, Context
from auditor.artifact.family import SIGNATURES, expected_modules
from auditor.artifact.tensors import TensorSource

NAME = "overwrite"

__all__ = ["NAME", "collect", "recognises"]

_COMPONENTS = ("unet", "text_encoder", "text_encoder_2")
# A file with the first and the last layer of the UNet is a UNet.
_WHOLE = ("conv_in.weight", "conv_out.weight")


def recognises(source: TensorSource) -> bool:
    """Whether any key is a parameter of a known module, and the file is not a whole UNet."""
    names = source.specs
    whole = all(name in names or f"unet.{name}" in names for name in _WHOLE)
    return not whole and any(next(_places(name, Context()), None) for name in names)


def collect(source: TensorSource, context: Context) -> Collected:
    """Reads replaced parameters; names that no known module has are left unmatched."""
    collector = Collector(source)
    for key in source.specs:
        component, path = next(_places(key, context), ("", ""))
        if component:
            collector.add(component, path, "weight" if key.endswith(".weight") else "bias", key)
        else:
            collector.left.append(key)
    return collector.finish()


def _places(key: str, context: Context) -> Iterator[tuple[str, str]]:
    path, _, last = key.rpartition(".")
    if last not in ("weight", "bias"):
        return
    for component in _COMPONENTS:
        local = path.removeprefix(f"{component}.")
        if local.startswith(("encoder.layers.", "final_layer_norm")):
            local = f"text_model.{local}"
        if any(local in modules for modules in _known(component, context)):
            yield component, local


def _known(component: str, context: Context) -> Iterator[ModuleShapes]:
    for signature in SIGNATURES:
        yield expected_modules(signature, component)
    if context.base is not None:
        yield context.base.get(component, {})
