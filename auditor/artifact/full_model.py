"""A whole fine-tuned model folder as an adapter: every parameter it stores, in place of the base's.

Which of them differ from the base, and whether the folder runs them as the base does, is found where the base is
loaded (:mod:`auditor.pipeline.full_model`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from auditor.artifact.adapter import Adapter, Delta, Overwrite
from auditor.artifact.card import card_beside
from auditor.artifact.claims import parse_claims
from auditor.artifact.identify import Identified
from auditor.artifact.limits import DEFAULT_LIMITS, Limits
from auditor.artifact.safetensors_file import SafetensorsFile
from auditor.artifact.sniff import Kind
from auditor.artifact.tensors import FileTensors, Tensor, tensor_of
from auditor.errors import UnsupportedArtifact
from auditor.text import inert

__all__ = ["DIALECT", "MODEL_COMPONENTS", "read_full_model"]

DIALECT = "full_model"
MODEL_COMPONENTS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3", "vae")
"""Components of which every weight takes part in drawing a picture."""

# These stand beside the model and change no weight of it.
_BESIDE = frozenset({"safety_checker", "feature_extractor", "image_encoder"})
_PLAIN = re.compile(r"(?:diffusion_pytorch_)?model(?:-\d+-of-\d+)?\.safetensors")
_HALF = re.compile(r"(?:diffusion_pytorch_)?model\.fp16(?:-\d+-of-\d+)?\.safetensors")
# What attention in autoencoders was called until 2023, and loaders still read.
_OLD_NAMES = {".query": ".to_q", ".key": ".to_k", ".value": ".to_v", ".proj_attn": ".to_out.0"}


def read_full_model(part: Identified, limits: Limits = DEFAULT_LIMITS) -> Adapter:
    """Reads a model folder; nothing is loaded, and tensors are read when they are asked for.

    Args:
        part: of kind ``model_folder``; it keeps the files open until it is closed.
        limits: caps on what is read.

    Raises:
        UnsupportedArtifact: it is no model folder, or its denoiser has no safetensors weights.
        MalformedArtifact: a weight file breaks its format.
    """
    if part.kind != "model_folder" or part.directory is None or part.family is None:
        raise UnsupportedArtifact(
            f"'{inert(str(part.path))}' is a {part.kind.replace('_', ' ')}, not a model folder"
        )
    components: dict[str, dict[str, Delta]] = {}
    left: list[str] = []
    for component in MODEL_COMPONENTS:
        tensors: dict[str, Tensor] = {}
        for path in _weights_of(part, component, left):
            source = FileTensors(part.keep_open(SafetensorsFile(path, limits)))
            tensors |= {key: tensor_of(source, key) for key in source.specs}
        if tensors:
            components[component] = _overwrites(component, tensors, left)
    if not components.keys() & {"unet", "transformer"}:
        raise UnsupportedArtifact(
            f"'{inert(str(part.path))}' is a model folder whose denoiser has no safetensors weights; save it as such"
        )
    left += sorted(_not_ours(part))
    card, problems = card_beside(part.path)
    return Adapter(
        dialect=DIALECT,
        family=part.family.family,
        family_match=part.family,
        components=components,
        embeddings={},
        unmatched=tuple(left),
        claims=parse_claims({}, None, card),
        problems=problems,
    )


def _weights_of(part: Identified, component: str, left: list[str]) -> list[Path]:
    """The files that loaders open for a component; others of it are left over, for a loader may be told to."""
    assert part.directory is not None
    stored = [
        Path(name)
        for name, kind in part.directory.weights.items()
        if kind is Kind.SAFETENSORS and Path(name).parent == Path(component)
    ]
    plain = [name for name in stored if _PLAIN.fullmatch(name.name)]
    chosen = plain or [name for name in stored if _HALF.fullmatch(name.name)]
    left += [
        f"{name.as_posix()} (weights that are not opened by default)" for name in stored if name not in chosen
    ]
    return [part.path / name for name in chosen]


def _overwrites(component: str, tensors: dict[str, Tensor], left: list[str]) -> dict[str, Delta]:
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        path, _, last = key.rpartition(".")
        if last in ("weight", "bias") and path:
            found.setdefault(_renamed(component, path), {})[last] = tensor
        elif last != "position_ids":  # counted anew by every version of the library
            left.append(f"{component}.{key}")
    return {path: Overwrite(each.get("weight"), each.get("bias")) for path, each in found.items()}


def _renamed(component: str, path: str) -> str:
    if component == "vae":
        for old, new in _OLD_NAMES.items():
            if path.endswith(old):
                return path.removesuffix(old) + new
    return path


def _not_ours(part: Identified) -> Iterator[str]:
    assert part.directory is not None
    for component, named in part.directory.components.items():
        known = (
            component in MODEL_COMPONENTS
            or component in _BESIDE
            or component.startswith(("tokenizer", "scheduler"))
        )
        if named is not None and not known:
            yield f"component {component}"
    for name, kind in part.directory.weights.items():
        if kind is Kind.SAFETENSORS and "/" not in name:
            yield f"{name} (weights beside the model)"
