"""Several low-rank adapter files as one: read in whatever naming they have, added exactly, written as diffusers reads.

Ranks add up and nothing is cut off; for adapters of Orthogonal Adaptation the sum is what its paper merges
(arXiv 2312.02432).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from auditor.artifact.adapter import Adapter, Delta, LowRank
from auditor.artifact.identify import Identified, identify
from auditor.errors import IncompatibleArtifact, RefusedArtifact, UsageError
from auditor.personalize.blocks.adapter_files import save_tensors
from auditor.personalize.blocks.merging import Factors, GramCertificate, gram_certificate, merge
from auditor.text import inert

__all__ = ["FILE", "LowRankFile", "merged", "overlap", "read_low_rank", "save_merged"]

FILE = "pytorch_lora_weights.safetensors"


@dataclass(frozen=True)
class LowRankFile:
    """A low-rank adapter.

    Attributes:
        path: where it was read from.
        sha256: of that file.
        family: what it was trained for, as far as its shapes tell.
        components: ``unet``, ``transformer``, ``text_encoder``... to path of the layer to (down, up), (r, in, ...)
            and (out, r, ...), float32; scales are multiplied into ``up``.
        half: whether everything in the file is stored in 16 bits.
    """

    path: Path
    sha256: str
    family: str
    components: Mapping[str, Factors]
    half: bool


def read_low_rank(path: Path) -> LowRankFile:
    """Opens an adapter whose every change is a plain low-rank product.

    Raises:
        UsageError: there is no such file.
        IncompatibleArtifact: it is no adapter, or changes something in another way; the way is named.
        RefusedArtifact: it must not be opened. MalformedArtifact: it is damaged.
    """
    with identify(path) as found:
        adapter = _adapter(found)
        shown = inert(str(path), 200)
        if adapter.unmatched:
            raise IncompatibleArtifact(
                f"'{shown}' has {len(adapter.unmatched)} keys that are not understood, so that a merger would lose them"
            )
        if adapter.embeddings:
            raise IncompatibleArtifact(f"'{shown}' holds learned words, which cannot be added to others")
        components: dict[str, dict[str, tuple[Tensor, Tensor]]] = {}
        for component, module, delta in adapter.modules():
            components.setdefault(component, {})[module] = _factors(delta, f"'{shown}' at {inert(module, 80)}")
        half = all(dtype in ("F16", "BF16") for dtype in adapter.dtypes)
        return LowRankFile(path, found.sha256, adapter.family, components, half)


def merged(files: Sequence[LowRankFile], weights: Sequence[float]) -> dict[str, dict[str, tuple[Tensor, Tensor]]]:
    """``sum_i weight_i up_i down_i`` of every layer that any of the files changes.

    Raises:
        UsageError: fewer than two files, weights that are not as many, or layers of another shape: not one base.
    """
    if len(files) < 2:
        raise UsageError("a merger takes at least two adapters")
    if len(weights) != len(files):
        raise UsageError(f"{len(files)} adapters need as many weights, not {len(weights)}; see --weights")
    if not all(abs(weight) < float("inf") for weight in weights):
        raise UsageError("weights must be finite numbers")
    out: dict[str, dict[str, tuple[Tensor, Tensor]]] = {}
    for component in dict.fromkeys(name for file in files for name in file.components):
        weighted = []
        for file, weight in zip(files, weights, strict=True):
            factors = file.components.get(component, {})
            weighted.append({path: (down, weight * up) for path, (down, up) in factors.items()})
        _check_shapes(component, weighted, files)
        out[component] = merge(weighted, 1.0)
    return out


def overlap(files: Sequence[LowRankFile]) -> GramCertificate:
    """How far adapters meet, from their factors alone; a convolution counts as the matrix it flattens to."""
    flat = [
        {
            f"{component}.{path}": (down.flatten(1), up.flatten(1))
            for component, factors in file.components.items()
            for path, (down, up) in factors.items()
        }
        for file in files
    ]
    return gram_certificate(flat)


def save_merged(
    folder: Path, components: Mapping[str, Factors], half: bool, metadata: Mapping[str, str] | None = None
) -> Path:
    """Writes ``pytorch_lora_weights.safetensors`` as ``load_lora_weights`` reads it.

    Args:
        folder: made if it is not there.
        components: what :func:`merged` gave.
        half: stored as float16, else float32: float16 breaks the orthogonality of adapters made to add up.
        metadata: strings for the header.

    Raises:
        OutputError: the file is there already, or cannot be written.
    """
    tensors = {}
    for component, factors in components.items():
        for path, (down, up) in factors.items():
            tensors[f"{component}.{path}.lora_A.weight"] = down
            tensors[f"{component}.{path}.lora_B.weight"] = up
    return save_tensors(folder, FILE, tensors, metadata, half)


def _adapter(found: Identified) -> Adapter:
    shown = inert(str(found.path), 200)
    if found.kind == "refused":
        raise RefusedArtifact(f"'{shown}' holds a pickle that must not be opened; see auditor scan")
    if found.adapter is None:
        told = found.unsupported or f"'{shown}' is a {found.kind.replace('_', ' ')}, not an adapter"
        raise IncompatibleArtifact(told)
    return found.adapter


def _factors(delta: Delta, where: str) -> tuple[Tensor, Tensor]:
    if not isinstance(delta, LowRank) or delta.magnitude is not None or delta.mid is not None:
        kind = "DoRA" if isinstance(delta, LowRank) and delta.magnitude is not None else type(delta).__name__
        raise IncompatibleArtifact(f"{where} is {kind}, no plain low-rank change; only LoRA is merged exactly")
    if delta.bias_delta is not None:
        raise IncompatibleArtifact(f"{where} changes a bias too; only LoRA is merged exactly")
    down, up = (torch.from_numpy(part.array().astype("float32")) for part in (delta.down, delta.up))
    return down, up * delta.scale


def _check_shapes(component: str, adapters: Sequence[Factors], files: Sequence[LowRankFile]) -> None:
    seen: dict[str, tuple[tuple[int, ...], Path]] = {}
    for factors, file in zip(adapters, files, strict=True):
        for path, (down, up) in factors.items():
            shape = (len(up), *down.shape[1:], *up.shape[2:])
            known, first = seen.setdefault(path, (shape, file.path))
            if known != shape:
                names = " and ".join(f"'{inert(str(each), 120)}'" for each in (first, file.path))
                raise UsageError(f"{names} change {component} {inert(path, 80)} in other shapes, not of one base")
