"""The first LoRA tool's naming: ``unet:0:down``, modules told apart by nothing but their number.

cloneofsimo/lora numbered the linear layers in the order in which it met them: attention blocks and GEGLU
layers of the UNet, attention of the text encoder, in the order in which their owners had registered them.
That order follows from the classes of that time: the middle block came last in the UNet (it was assigned
after the up blocks), ``ff`` stood between ``attn1`` and ``attn2`` in a transformer block, and CLIP
registers k, v, q, out. Factors are applied with a scale of 1. Vectors for new tokens are stored under the
token, marked ``<embed>`` in the metadata.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping

from auditor.artifact.architectures import ModuleShapes
from auditor.artifact.dialects.collect import Collected, Collector, Context
from auditor.artifact.family import SIGNATURES, expected_modules
from auditor.artifact.tensors import TensorSource

NAME = "ordinal"

__all__ = ["NAME", "collect", "enumerate_modules", "recognises"]

_KEY = re.compile(r"(?P<component>unet|text_encoder):(?P<number>\d{1,5}):(?P<part>up|down)")
_EMBEDDED = "<embed>"
# The families that existed when the tool did.
_FAMILIES = ("sd1", "sd2", "embedded")
_ATTENTION = frozenset({"CrossAttention", "Attention"})
_DEFAULT = frozenset({"CrossAttention", "Attention", "GEGLU"})


def recognises(source: TensorSource) -> bool:
    """Whether any key is of the form ``component:number:part``."""
    return any(_KEY.fullmatch(name) for name in source.specs)


def collect(source: TensorSource, context: Context) -> Collected:
    """Reads numbered factors and token vectors; factors whose shapes fit no known order stay unmatched."""
    collector = Collector(source)
    numbered: dict[str, dict[int, dict[str, str]]] = {}
    for key in source.specs:
        found = _KEY.fullmatch(key)
        if found:
            pair = numbered.setdefault(found["component"], {}).setdefault(int(found["number"]), {})
            if found["part"] in pair:
                collector.reject(key, "dialect.duplicate", f"'{key}' repeats '{pair[found['part']]}'")
            else:
                pair[found["part"]] = key
        elif source.metadata.get(key) == _EMBEDDED:
            collector.add_vectors(key, "text_encoder", key)
        else:
            collector.left.append(key)
    for component, pairs in numbered.items():
        order = _fitting_order(component, pairs, source)
        if order is None:
            for pair in pairs.values():
                collector.left.extend(pair.values())
            collector.note(
                "ordinal.order",
                f"the {len(pairs)} numbered pairs of {component} fit no known order of modules",
            )
            continue
        for number, pair in pairs.items():
            for part, key in pair.items():
                collector.add(component, order[number], "up" if part == "up" else "down", key)
    if "text_encoder" in numbered:
        collector.note(
            "ordinal.text_order",
            "text-encoder projections share one shape: their order (k, v, q, out) is not checked",
        )
    return collector.finish()


def enumerate_modules(component: str, modules: ModuleShapes, classes: Collection[str]) -> tuple[str, ...]:
    """Module paths in the order in which the tool met them.

    Args:
        component: ``unet`` or ``text_encoder``.
        modules: module path to weight shape of the whole component.
        classes: names of the classes whose layers were replaced (``GEGLU``, ``ResnetBlock2D`` ...).
    """
    if component == "text_encoder":
        return tuple(path for path in modules if ".self_attn." in path) if "CLIPAttention" in classes else ()
    return tuple(_unet_order(modules, frozenset(classes)))


def _unet_order(modules: ModuleShapes, classes: frozenset[str]) -> Iterator[str]:
    first: dict[str, int] = {}
    for index, path in enumerate(modules):
        first.setdefault(_owner(path), index)

    def place(path: str) -> tuple[int, int, bool, int, int]:
        region = 2 if path.startswith("mid_block") else 1 if path.startswith("up_blocks") else 0
        numbers = re.match(r"(?:down|up)_blocks\.(\d+)", path)
        part = 0 if ".attn1." in path else 1 if ".ff." in path else 2
        return region, int(numbers[1]) if numbers else 0, ".resnets." in path, first[_owner(path)], part

    yield from sorted((path for path in modules if _replaced(path, classes)), key=place)


def _replaced(path: str, classes: frozenset[str]) -> bool:
    if ".attn1." in path or ".attn2." in path:
        return bool(classes & _ATTENTION)
    if path.endswith(".ff.net.0.proj"):
        return "GEGLU" in classes
    return ".resnets." in path and ".norm" not in path and "ResnetBlock2D" in classes


def _owner(path: str) -> str:
    found = re.match(r".+\.(?:transformer_blocks|resnets)\.\d+", path)
    return found[0] if found else path


def _fitting_order(
    component: str, pairs: Mapping[int, Mapping[str, str]], source: TensorSource
) -> tuple[str, ...] | None:
    for signature in SIGNATURES:
        if signature.family in _FAMILIES:
            modules = expected_modules(signature, component)
            order = enumerate_modules(component, modules, _classes(component, source.metadata))
            if len(order) == len(pairs) and all(
                number < len(order) and _fits(pair, modules[order[number]], source)
                for number, pair in pairs.items()
            ):
                return order
    return None


def _fits(pair: Mapping[str, str], shape: tuple[int, ...], source: TensorSource) -> bool:
    up = source.specs[pair["up"]].shape if "up" in pair else shape[:1]
    down = source.specs[pair["down"]].shape if "down" in pair else (0, *shape[1:])
    return up[:1] == shape[:1] and down[1:] == shape[1:]


def _classes(component: str, metadata: Mapping[str, str]) -> frozenset[str]:
    default = _DEFAULT if component == "unet" else frozenset({"CLIPAttention"})
    try:
        named = json.loads(metadata.get(component, "")[:4096])
    except (ValueError, RecursionError):
        return default
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        return default
    return frozenset(named) or default
