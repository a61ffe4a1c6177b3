"""A diffusers model folder (``model_index.json``): what it says it is made of, and what in it could run code.

Nothing is imported or loaded: configs are read as data, files are listed, weight files are told by content.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
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
    from auditor.artifact.family import FamilyMatch

__all__ = ["ModelDirectory", "PICKLE_KINDS", "WEIGHT_KINDS", "list_files", "read_model_directory"]

PICKLE_KINDS = frozenset({Kind.TORCH_ZIP, Kind.TORCH_LEGACY, Kind.PICKLE})
WEIGHT_KINDS = PICKLE_KINDS | {
    Kind.SAFETENSORS,
    Kind.GGUF,
    Kind.DDUF,
    Kind.ONNX,
    Kind.HDF5,
    Kind.NPY,
    Kind.NPZ,
}

_LIBRARIES = frozenset({"diffusers", "transformers"})
_CODE = re.compile(r".+\.(?:py|pyc|pyd|so|dll|dylib|sh|bat|ps1|exe|ipynb|js)", re.I)
_CONFIG = re.compile(r"(?:.*_)?config\.json")
_MOST_FILES = 5_000
_DEEPEST = 6
_FAMILIES = {768: "sd1", 1024: "sd2", 2048: "sdxl", 192: "embedded"}
_TRANSFORMERS = {"SD3Transformer2DModel": "sd3", "FluxTransformer2DModel": "flux"}


@dataclass(frozen=True)
class ModelDirectory:
    """What a model folder says and holds.

    Attributes:
        pipeline: the pipeline class named in ``model_index.json``; untrusted.
        components: component to (library, class), or None for a component set to null.
        weights: relative path to kind of every weight file, by content.
        family: from the shapes of the UNet or transformer, or from its config where those could not be read.
        problems: custom code, foreign libraries, links, pickles beside safetensors.
    """

    pipeline: str
    components: Mapping[str, tuple[str, str] | None]
    weights: Mapping[str, Kind]
    family: FamilyMatch
    problems: tuple[Problem, ...]


def read_model_directory(folder: Path) -> ModelDirectory:
    """Reads a folder with ``model_index.json``.

    Raises:
        MalformedArtifact: ``model_index.json`` is no JSON object.
        RefusedArtifact: more files, or deeper folders, than any model has.
    """
    index = read_json_object(folder / "model_index.json")
    files = list_files(folder)
    problems: list[Problem] = []
    pipeline = index.get("_class_name")
    if not isinstance(pipeline, str):
        problems.append(
            problem(
                "model.custom_pipeline",
                "high",
                f"_class_name is {pipeline!r}, which makes loaders import code",
            )
        )
        pipeline = str(pipeline)
    components: dict[str, tuple[str, str] | None] = {}
    for name, value in index.items():
        if name.startswith("_") or not isinstance(value, list):
            continue
        problems.extend(_component_problems(name, value, folder))
        library, kind = ([*value, None, None])[:2]
        components[name] = (str(library), str(kind)) if library is not None and kind is not None else None
    problems.extend(file_problems(folder, files))
    weights = {name: kind for name in files if (kind := _weight_kind(folder / name)) is not None}
    problems.extend(_shadowed(weights))
    family, contradictions = _family(folder, weights)
    problems.extend(contradictions)
    return ModelDirectory(pipeline, components, weights, family, tuple(problems))


def list_files(folder: Path) -> tuple[str, ...]:
    """Relative paths of all files, sorted, links included but not followed.

    Raises:
        RefusedArtifact: more files, or deeper folders, than any model has.
    """
    found: list[str] = []
    for root, folders, names in os.walk(folder):
        here = Path(root).relative_to(folder)
        if len(here.parts) > _DEEPEST:
            raise RefusedArtifact(
                f"'{inert(folder.name)}' nests folders deeper than {_DEEPEST}; give the model itself"
            )
        links = [name for name in folders if (Path(root) / name).is_symlink()]
        folders[:] = sorted(name for name in folders if name not in links and name != ".git")
        found.extend((here / name).as_posix() for name in (*names, *links))
        if len(found) > _MOST_FILES:
            raise RefusedArtifact(
                f"'{inert(folder.name)}' holds more than {_MOST_FILES} files; give the model itself"
            )
    return tuple(sorted(found))


def file_problems(folder: Path, files: tuple[str, ...]) -> tuple[Problem, ...]:
    """Code, links that lead out, and configs that ask for code, among the files of a folder."""
    return tuple(_file_problems(folder, files))


def _file_problems(folder: Path, files: tuple[str, ...]) -> Iterator[Problem]:
    root = folder.resolve()
    for name in files:
        path = folder / name
        if path.is_symlink() and root not in path.resolve().parents:
            # A download cache links to blobs outside of the snapshot, so a link alone is no attack.
            yield problem("model.link", "low", f"'{name}' is a link that leads out of the folder")
        if _CODE.fullmatch(name):
            yield problem(
                "model.code", "high", f"'{name}' is code; it is not run, and loaders may be asked to run it"
            )
        if name.endswith(".index.json") and path.is_file():
            yield from _shard_problems(path, name)
        if _CONFIG.fullmatch(path.name) and path.is_file():
            try:
                config = read_json_object(path)
            except MalformedArtifact as error:
                yield problem("model.config", "low", str(error))
                continue
            for key in ("auto_map", "custom_pipelines", "trust_remote_code"):
                if config.get(key):
                    yield problem(
                        "model.remote_code", "high", f"'{name}' has {key}, which makes loaders import code"
                    )


def _shard_problems(path: Path, name: str) -> Iterator[Problem]:
    try:
        shards = read_json_object(path).get("weight_map", {})
    except MalformedArtifact as error:
        yield problem("model.config", "low", str(error))
        return
    named = set(map(str, shards.values())) if isinstance(shards, dict) else {str(shards)}
    led = sorted(shard for shard in named if not _is_inside(shard))
    if led:
        yield problem("model.shard_path", "high", f"'{name}' names the shard '{led[0]}', which is not in its folder")


def _is_inside(name: str) -> bool:
    """Whether a name that a loader joins to a folder stays in it."""
    return not name.startswith(("/", "~")) and ".." not in name.replace("\\", "/").split("/") and ":" not in name[:2]


def _component_problems(name: str, value: list[Any], folder: Path) -> Iterator[Problem]:
    if len(value) != 2 or not all(isinstance(v, str) or v is None for v in value):
        yield problem(
            "model.component", "high", f"component '{name}' is {value!r}, not a pair of library and class"
        )
        return
    if not _is_inside(name):
        yield problem("model.component", "high", f"component '{name}' names a path, and may lead out of the folder")
    library, kind = value
    if library is None or kind is None:
        if name == "safety_checker":
            yield problem("model.no_safety_checker", "info", "the safety checker is set to null")
    elif library not in _LIBRARIES:
        own = (folder / library).exists() or (folder / name / f"{library}.py").exists()
        told = "code in the folder itself" if own else f"the library '{library}'"
        yield problem("model.custom_component", "high", f"component '{name}' ({kind}) comes from {told}")


def _shadowed(weights: Mapping[str, Kind]) -> Iterator[Problem]:
    for name, kind in weights.items():
        if kind in PICKLE_KINDS:
            beside = any(
                n != name and Path(n).parent == Path(name).parent and k is Kind.SAFETENSORS
                for n, k in weights.items()
            )
            told = (
                "beside safetensors, so loaders may open either"
                if beside
                else "and has no safetensors beside it"
            )
            yield problem("model.pickle_weights", "low", f"'{name}' is a pickle {told}")


def _weight_kind(path: Path) -> Kind | None:
    if not path.is_file():
        return None
    kind = sniff(path).kind
    return kind if kind in WEIGHT_KINDS else None


def _family(folder: Path, weights: Mapping[str, Kind]) -> tuple[FamilyMatch, tuple[Problem, ...]]:
    """By the shapes of the denoiser where they can be read, else by its config; a contradiction is a problem."""
    # The module lists of all families, which single files of a long queue never need.
    from auditor.artifact.family import FamilyMatch, match_family, named_like, title_of

    denoiser = "transformer" if (folder / "transformer" / "config.json").is_file() else "unet"
    config = _config(folder / denoiser / "config.json")
    claimed, told = _told_by_unet(config) if denoiser == "unet" else _told_by_transformer(config)
    shapes = _shapes(folder, denoiser, weights)
    if not shapes:
        return FamilyMatch(claimed, (told or f"there is no {denoiser} config",)), ()
    measured = match_family({denoiser: shapes})
    if not told or claimed in (measured.family, *measured.alternatives):
        return measured, ()
    if denoiser == "transformer" and measured.family == "other" and named_like(claimed, denoiser, shapes):
        # The class fixes the architecture and leaves the sizes open.
        return FamilyMatch(
            claimed, (told, f"its modules are named like those of {title_of(claimed)}", *measured.evidence)
        ), ()
    told = f"{told}, but the weights are of family {measured.family}"
    return measured, (problem("model.family", "medium", told),)


def _config(path: Path) -> Mapping[str, Any]:
    try:
        return read_json_object(path) if path.is_file() else {}
    except MalformedArtifact:
        return {}


def _told_by_unet(config: Mapping[str, Any]) -> tuple[str, str]:
    """The family that a UNet's config names, and the sentence; empty if it names none."""
    columns = config.get("cross_attention_dim")
    if not columns:
        return "other", ""
    family = _FAMILIES.get(columns, "other") if isinstance(columns, int) else "other"
    return family, f"unet/config.json names {inert(str(columns), 40)} text columns"


def _told_by_transformer(config: Mapping[str, Any]) -> tuple[str, str]:
    kind = config.get("_class_name")
    if not isinstance(kind, str):
        return "other", ""
    return _TRANSFORMERS.get(kind, "other"), f"transformer/config.json names the class {inert(kind, 60)}"


def _shapes(folder: Path, denoiser: str, weights: Mapping[str, Kind]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name, kind in weights.items():
        if kind is Kind.SAFETENSORS and name.startswith(f"{denoiser}/"):
            try:
                header = read_header(folder / name)
            except MalformedArtifact:
                # Whoever examines the file itself reports what is wrong with it.
                continue
            found = {
                n.removesuffix(".weight"): s.shape for n, s in header.tensors.items() if n.endswith(".weight")
            }
            shapes.update(found)
    return shapes
