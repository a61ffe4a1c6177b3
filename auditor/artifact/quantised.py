"""Quantised weights: which scheme, told by tensor names, stored types and configs alone.

A quantised base is not the model that an adapter was trained on: each weight is rounded to a few levels, and a
small change of it may vanish between two of them. It is recognised and named here, so that it is neither
loaded by mistake nor taken for a damaged file.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditor.artifact.peft_config import read_json_object
from auditor.artifact.problems import Problem, problem
from auditor.artifact.safetensors_header import read_header
from auditor.artifact.sniff import Kind, sniff
from auditor.errors import MalformedArtifact, RefusedArtifact
from auditor.text import inert

if TYPE_CHECKING:
    from auditor.artifact.tensors import TensorInfo

__all__ = ["Quantised", "quantised_folder", "quantised_note", "quantised_tensors"]

_EIGHT_BIT_FLOATS = frozenset({"F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"})
_FOLDER_FILES = 400


@dataclass(frozen=True)
class Quantised:
    """One scheme found.

    Attributes:
        scheme: what it is called, in words.
        evidence: the key, type or setting that shows it, made inert.
        loadable: an ordinary loader reads the weights as they are, only rounded.
    """

    scheme: str
    evidence: str
    loadable: bool = False

    @property
    def told(self) -> str:
        """One sentence: the scheme, what it hides, and what would be needed."""
        return (
            f"weights are quantised with {self.scheme} ({self.evidence}): changes smaller than its rounding steps are "
            "hidden; give the base in 16 or 32 bits"
        )


@dataclass(frozen=True)
class _Scheme:
    """A scheme and the endings that must all be among the keys."""

    name: str
    endings: tuple[re.Pattern[str], ...]


def _scheme(name: str, *endings: str) -> _Scheme:
    return _Scheme(name, tuple(re.compile(rf"(?:{ending})\Z") for ending in endings))


# First match wins: schemes whose keys are among those of another stand behind it.
_SCHEMES = (
    _scheme("bitsandbytes in 4 bits", r"\.weight\.quant_state\.bitsandbytes__(?:nf4|fp4)"),
    _scheme("bitsandbytes in 4 bits", r"\.weight\.absmax", r"\.weight\.quant_map"),
    _scheme("bitsandbytes in 8 bits", r"\.SCB"),
    _scheme("SVDQuant (nunchaku)", r"\.qweight", r"\.(?:wscales|wtscale|smooth_factor|smooth)"),
    _scheme("GPTQ", r"\.qweight", r"\.qzeros", r"\.g_idx"),
    _scheme("AWQ", r"\.qweight", r"\.qzeros"),
    _scheme("GPTQ or a relative of it", r"\.qweight"),
    _scheme("compressed-tensors", r"\.weight_packed", r"\.weight_scale"),
    _scheme("HQQ", r"\.W_q"),
    _scheme("optimum-quanto", r"\.weight\._data(?:\._data)?", r"\.weight\._scale"),
    _scheme("torchao", r"[._:](?:q|int_|float8_)data(?:_impl)?", r"[._:]scale"),
    _scheme("8-bit floats with scales", r"(?:^|\.)scaled_fp8|\.scale_weight"),
    _scheme("8-bit numbers with scales in ComfyUI's format", r"\.comfy_quant"),
)
_SCALED = re.compile(r"\.weight_scale(?:_inv)?\Z")
_EIGHT_BITS = _EIGHT_BIT_FLOATS | {"I8", "U8"}


def quantised_tensors(specs: Mapping[str, TensorInfo]) -> Quantised | None:
    """The scheme in which a set of tensors is quantised, or None.

    Args:
        specs: name to stored type and shape.
    """
    for scheme in _SCHEMES:
        found = [_first(specs, ending) for ending in scheme.endings]
        if all(found):
            return Quantised(scheme.name, f"key '{inert(found[0], 80)}'")
    narrow = {name.removesuffix(".weight"): s.dtype for name, s in specs.items() if s.dtype in _EIGHT_BITS}
    scale = next((n for n in specs if _SCALED.search(n) and _SCALED.sub("", n) in narrow), "")
    if scale:
        return Quantised("8-bit numbers with scales", f"key '{inert(scale, 80)}'")
    floats = next((name for name, spec in specs.items() if spec.dtype in _EIGHT_BIT_FLOATS), "")
    if floats:
        told = f"'{inert(floats, 80)}' is stored as {specs[floats].dtype}"
        return Quantised("8-bit floats", told, loadable=True)
    return None


def quantised_config(config: Mapping[str, Any]) -> Quantised | None:
    """The scheme that a component's ``config.json`` names, or None."""
    settings = config.get("quantization_config")
    if not isinstance(settings, dict):
        return None
    name = (
        settings.get("quant_method", settings.get("_load_in_4bit") and "bitsandbytes") or "an unnamed method"
    )
    return Quantised(inert(str(name), 40), "quantization_config in config.json")


def quantised_folder(folder: Path, parts: Collection[str] | None = None) -> dict[str, Quantised]:
    """The schemes of the components of a model folder, by component; headers and configs are read.

    Args:
        folder: a folder with one folder for each component.
        parts: names of the components to look at; all by default.
    """
    found: dict[str, Quantised] = {}
    for part in sorted(path for path in folder.iterdir() if path.is_dir()):
        if parts is None or part.name in parts:
            scheme = _component(part)
            if scheme is not None:
                found[part.name] = scheme
    return found


def quantised_note(found: Quantised, where: str = "") -> Problem:
    """A note for the report; no fault of the file."""
    return problem("quantised.weights", "info", f"{where}{': ' if where else ''}{found.told}")


def _component(folder: Path) -> Quantised | None:
    config = folder / "config.json"
    if config.is_file():
        try:
            named = quantised_config(read_json_object(config))
        except MalformedArtifact:
            named = None  # whoever loads the config says what is wrong with it
        if named is not None:
            return named
    for path in _files(folder.iterdir()):
        kind = sniff(path).kind
        if kind is Kind.GGUF:
            return Quantised("GGUF blocks", f"file '{inert(path.name, 60)}'")
        if kind is Kind.SAFETENSORS:
            try:
                found = quantised_tensors(read_header(path).tensors)
            except (MalformedArtifact, RefusedArtifact):
                continue  # as above, of the file
            if found is not None:
                return found
    return None


def _files(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if path.suffix in (".safetensors", ".gguf") and path.is_file())[
        :_FOLDER_FILES
    ]


def _first(names: Iterable[str], ending: re.Pattern[str]) -> str:
    return next((name for name in names if ending.search(name)), "")
