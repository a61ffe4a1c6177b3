"""A fine-tuned model folder put on its base: its weights as changes, and whatever else would make it another model.

A difference of configuration, tokenizer or noise schedule cannot be put on the base: it is counted as a key that did
not arrive, so that coverage is incomplete and nothing passes.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from auditor.artifact.adapter import Adapter, Overwrite
from auditor.artifact.full_model import read_full_model
from auditor.artifact.identify import Identified
from auditor.errors import AuditorError, UnsupportedArtifact
from auditor.pipeline.components import Components
from auditor.pipeline.loading import load_scheduler, load_tokenizers, read_json
from auditor.pipeline.parts import find_module
from auditor.text import inert

__all__ = ["as_adapter"]

# What says nothing of how a component computes.
_IDLE = frozenset(
    {
        "architectures",
        "dtype",
        "torch_dtype",
        "transformers_version",
        "initializer_factor",
        "initializer_range",
    }
    | {"gradient_checkpointing", "model_type", "name_or_path", "return_dict", "output_attentions"}
    | {"output_hidden_states", "use_cache", "attention_dropout", "dropout", "sample_size"}
)


def as_adapter(part: Identified, components: Components) -> Identified:
    """The part as something that changes a base: itself, or a model folder read as its difference to the base.

    Raises:
        UnsupportedArtifact: it is neither, or a folder without safetensors weights.
        MalformedArtifact: a weight file breaks its format.
    """
    if part.adapter is not None:
        return part
    if part.kind != "model_folder":
        shown = inert(str(part.path))
        raise UnsupportedArtifact(
            part.unsupported or f"'{shown}' is a {part.kind.replace('_', ' ')}, not an adapter"
        )
    adapter = read_full_model(part)
    other = (*_missing(adapter, components), *_differences(part.path, components))
    return replace(part, adapter=replace(adapter, unmatched=(*adapter.unmatched, *other)))


def _missing(adapter: Adapter, components: Components) -> Iterator[str]:
    """Parameters of the base that the folder does not store: a loader would fill them with random numbers."""
    for component, model in components.modules.items():
        stored: set[str] = set()
        for path, delta in adapter.components.get(component, {}).items():
            found = find_module(model, path)
            if found is not None and isinstance(delta, Overwrite):
                given = (("weight", delta.value), ("bias", delta.new_bias))
                stored |= {f"{found[0]}.{name}" for name, value in given if value is not None}
        for name, _ in model.named_parameters():
            if name not in stored:
                yield f"{component}.{name}, which the folder lacks"


def _differences(folder: Path, components: Components) -> Iterator[str]:
    try:
        index = read_json(folder / "model_index.json", "it has no model_index.json")
        asked = str(index.get("_class_name"))
        if asked != components.kind.pipeline:
            yield f"pipeline class {asked}, not {components.kind.pipeline}"
        for component, model in components.modules.items():
            if (folder / component).is_dir():
                yield from _config_differences(folder, component, model)
        yield from _scheduler_differences(folder, components)
        yield from _tokenizer_differences(folder, components)
    except AuditorError as error:
        yield f"configuration: {error}"


def _config_differences(folder: Path, component: str, model: Any) -> Iterator[str]:
    stored = read_json(folder / component / "config.json", f"it has no {component}/config.json")
    ours, theirs = _settings(model, None), _settings(model, stored)
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            yield f"{component} config: {key} is {inert(str(theirs.get(key)), 40)}, not {ours.get(key)}"


def _settings(model: Any, stored: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a config says that matters, defaults filled in; the model's own if none is given."""
    if hasattr(model.config, "to_dict"):
        defaults, own = type(model.config)().to_dict(), model.config.to_dict()
    else:
        wanted = inspect.signature(type(model).__init__).parameters
        defaults = {n: p.default for n, p in wanted.items() if p.default is not inspect.Parameter.empty}
        own = dict(model.config)
    given = {**defaults, **(own if stored is None else stored)}
    kept = {key: value for key, value in given.items() if key not in _IDLE and key[:1] != "_"}
    # As JSON has it: lists and tuples are one, and so are a class and its name.
    settings: dict[str, Any] = json.loads(json.dumps(kept, default=str))
    return settings


def _scheduler_differences(folder: Path, components: Components) -> Iterator[str]:
    theirs, ours = load_scheduler(folder / "scheduler", components.kind.flow), components.scheduler
    said = [str(each.config.get("prediction_type")) for each in (theirs, ours)]
    if said[0] != said[1]:
        yield f"scheduler: it predicts {said[0]}, not {said[1]}"
    name = "sigmas" if components.kind.flow else "alphas_cumprod"
    levels = [torch.as_tensor(getattr(each, name)).double() for each in (theirs, ours)]
    if levels[0].shape != levels[1].shape or not torch.equal(levels[0], levels[1]):
        yield "scheduler: another noise schedule"


def _tokenizer_differences(folder: Path, components: Components) -> Iterator[str]:
    theirs = load_tokenizers(folder, components.kind, components.modules)
    for encoder, ours in components.tokenizers.items():
        if _rules(theirs[encoder]) != _rules(ours):
            yield f"{encoder} tokenizer: other entries or rules"


def _rules(tokenizer: Any) -> Any:
    """All that decides how text becomes ids."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return tokenizer.get_vocab()
    rules = json.loads(backend.to_str())
    # Set anew by every call.
    return {key: value for key, value in rules.items() if key not in ("padding", "truncation")}
