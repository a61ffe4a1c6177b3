"""Opens the parts of a base: components by known class only, every weight accounted for.

Diffusers only warns when a file lacks weights and fills them with random numbers; a pipeline saved with an
active LoRA comes back that way. Here a missing weight is an error.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from auditor.errors import BaseUnavailable, CoverageError
from auditor.pipeline.families import Family
from auditor.pipeline.schedule import FLOW_PREDICTION, PREDICTION_TYPES
from auditor.text import inert

__all__ = ["load_model", "load_scheduler", "load_tokenizers", "looks_ahead", "read_json"]


def load_model(folder: Path, name: str, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Opens one component, frozen and in evaluation mode.

    Raises:
        BaseUnavailable: another class than the known ones, or no readable safetensors.
        CoverageError: weights are missing, left over or of another shape.
    """
    config = read_json(folder / "config.json", f"base component {name} has no config.json")
    classes = _classes()
    wanted = str(config.get("_class_name") or (config.get("architectures") or [""])[0])
    if wanted not in classes:
        raise BaseUnavailable(f"base component {name} has class '{inert(wanted)}', which is not supported")
    _check_depth(config, folder, name)
    model = _complete(classes[wanted], folder, name)
    # Past diffusers' own ``to``, which warns about float32 modules even where there are none.
    nn.Module.to(model, device=device, dtype=dtype)
    if dtype == torch.float16:
        _keep_wide(model)
    return model.eval().requires_grad_(False)


def load_tokenizers(folder: Path, kind: Family, modules: Mapping[str, nn.Module]) -> dict[str, Any]:
    """The tokenizer of each text encoder, cut to what the encoder and the family take.

    Raises:
        BaseUnavailable: a tokenizer is missing or unreadable, or CLIP encoders have different vocabularies.
    """
    found = {}
    for encoder, name in kind.encoders.items():
        if encoder in modules:
            tokenizer = _open_tokenizer(folder / name, name, looks_ahead(modules[encoder]))
            found[encoder] = _sized(tokenizer, modules[encoder], kind.text_length)
    for ahead in (False, True):
        vocabularies = {
            frozenset(tokenizer.get_vocab().items())
            for encoder, tokenizer in found.items()
            if looks_ahead(modules[encoder]) == ahead
        }
        if len(vocabularies) > 1:
            raise BaseUnavailable(
                "text encoders of one kind in the base have different vocabularies, which is not supported"
            )
    return found


def load_scheduler(folder: Path, flow: bool) -> Any:
    """The base's scheduler, which has to be of the family's kind.

    Raises:
        BaseUnavailable: an unknown class, or one of the other kind.
    """
    import diffusers

    config = read_json(folder / "scheduler_config.json", "base has no scheduler/scheduler_config.json")
    name = str(config.get("_class_name", "DDIMScheduler"))
    cls = getattr(diffusers, name, None) if name.endswith("Scheduler") else None
    if cls is None:
        raise BaseUnavailable(f"base scheduler class '{inert(name)}' is unknown")
    scheduler = cls.from_config(copy.deepcopy(config))
    kind = str(scheduler.config.get("prediction_type", FLOW_PREDICTION if "FlowMatch" in name else ""))
    shown = f"base scheduler '{inert(name)}' with prediction '{inert(kind)}' is not supported"
    if flow and kind != FLOW_PREDICTION:
        raise BaseUnavailable(f"{shown}: this family needs a flow-matching scheduler")
    if not flow and (not hasattr(scheduler, "alphas_cumprod") or kind not in PREDICTION_TYPES):
        raise BaseUnavailable(
            f"{shown}: a variance-preserving schedule that predicts {', '.join(PREDICTION_TYPES)} is needed"
        )
    return scheduler


def looks_ahead(encoder: Any) -> bool:
    """Whether a token's state depends on what follows it, padding included: T5, where CLIP is causal."""
    return str(encoder.config.model_type) == "t5"


def read_json(path: Path, missing: str) -> dict[str, Any]:
    """A JSON object. Raises ``BaseUnavailable``, with the sentence ``missing`` where there is no file."""
    if not path.is_file():
        raise BaseUnavailable(missing)
    try:
        value = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BaseUnavailable(f"'{inert(str(path))}' is not valid JSON") from error
    if not isinstance(value, dict):
        raise BaseUnavailable(f"'{inert(str(path))}' does not hold a JSON object")
    return value


def _classes() -> dict[str, Any]:
    import diffusers
    import transformers

    return {
        cls.__name__: cls
        for cls in (
            diffusers.AutoencoderKL,
            diffusers.FluxTransformer2DModel,
            diffusers.SD3Transformer2DModel,
            diffusers.UNet2DConditionModel,
            transformers.CLIPTextModel,
            transformers.CLIPTextModelWithProjection,
            transformers.T5EncoderModel,
        )
    }


def _check_depth(config: Mapping[str, Any], folder: Path, name: str) -> None:
    # A model is built before its weights are looked at: layers without end would be built without end.
    from safetensors import SafetensorError, safe_open

    stored = 0
    try:
        for path in folder.glob("*.safetensors"):
            file: Any = safe_open(path, "pt")
            stored += len(list(file.keys()))
    except (SafetensorError, OSError) as error:
        raise BaseUnavailable(f"base component {name} cannot be loaded: {_first_line(error)}") from error
    for key, value in config.items():
        asked = [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, int)]
        if stored and "layers" in key and max(asked, default=0) > stored:
            shown = inert(str(value), 40)
            raise BaseUnavailable(f"base component {name} says {key} {shown}, but stores {stored} tensors")


def _complete(cls: Any, folder: Path, name: str) -> nn.Module:
    from safetensors import SafetensorError

    variant = _variant(folder, name)
    try:
        with _quiet_library():
            model, loaded = cls.from_pretrained(
                str(folder),
                local_files_only=True,
                use_safetensors=True,
                variant=variant,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, TypeError, SafetensorError) as error:
        raise BaseUnavailable(f"base component {name} cannot be loaded: {_first_line(error)}") from error
    _check_complete(model, loaded, name)
    found: nn.Module = model
    return found


@contextmanager
def _quiet_library() -> Iterator[None]:
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    # What is missing or does not fit is said once, by us.
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def _keep_wide(model: nn.Module) -> None:
    # Where a class says that half precision overflows some of its maps; it casts for them by itself.
    for kept in getattr(model, "_keep_in_fp32_modules", None) or ():
        for path, module in model.named_modules():
            if path.rpartition(".")[2] == kept:
                module.float()


def _variant(folder: Path, name: str) -> str | None:
    """None for the plain weights, ``fp16`` where only those are there."""
    names = [path.name for path in folder.glob("*.safetensors")]
    if any(
        re.match(r"(?:diffusion_pytorch_)?model(?:-\d+-of-\d+)?\.", n) and ".fp16." not in n for n in names
    ):
        return None
    if any(".fp16" in n for n in names):
        return "fp16"
    raise BaseUnavailable(
        f"base component {name} has no safetensors weights; other weight formats are not opened"
    )


def _check_complete(model: nn.Module, loaded: Mapping[str, Any], name: str) -> None:
    # What the library itself says of its loading: it knows under which older names weights may be stored.
    missing = sorted(_real(loaded["missing_keys"]))
    if missing:
        raise CoverageError(
            f"base component {name} lacks {len(missing)} of {len(model.state_dict())} weights "
            f"(first: {inert(missing[0])}); it was saved with an active adapter or is incomplete, and would run on "
            "random numbers"
        )
    extra = sorted(_real(loaded["unexpected_keys"]))
    if extra:
        raise CoverageError(
            f"base component {name} has {len(extra)} weights that the model does not use (first: {inert(extra[0])})"
        )
    if loaded["mismatched_keys"]:
        raise CoverageError(f"base component {name} has weights of another shape than its config says")


def _real(keys: Iterable[str]) -> set[str]:
    # Positions are numbered anew by every version of the library.
    return {key for key in keys if not key.endswith("position_ids")}


def _open_tokenizer(folder: Path, name: str, t5: bool) -> Any:
    from transformers import CLIPTokenizer, T5Tokenizer

    if not folder.is_dir():
        raise BaseUnavailable(f"base has no {name} folder")
    # Without this file the library would build the tokenizer from a SentencePiece model, which is not hashed.
    if t5 and not (folder / "tokenizer.json").is_file():
        raise BaseUnavailable(f"base has no {name}/tokenizer.json")
    try:
        return (T5Tokenizer if t5 else CLIPTokenizer).from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise BaseUnavailable(f"base component {name} cannot be loaded: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    line = str(error).strip().partition("\n")[0]
    # The library speaks of a report of its own that is not shown here.
    if "ignore_mismatched_sizes" in line:
        return "its weights have other shapes than its config says"
    return inert(line, 200)


def _sized(tokenizer: Any, encoder: nn.Module, longest: int) -> Any:
    # A tokenizer saved without its length would pad every prompt without end.
    places = getattr(encoder.config, "max_position_embeddings", None)
    tokenizer.model_max_length = min(tokenizer.model_max_length, int(places or longest))
    return tokenizer
