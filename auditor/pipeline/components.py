"""A base model opened from a folder: components by known class only, every weight accounted for.

Diffusers only warns when a file lacks weights and fills them with random numbers; a pipeline saved with an
active LoRA comes back that way. Here a missing weight is an error.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from auditor.artifact.quantised import quantised_folder
from auditor.errors import BaseUnavailable, CoverageError
from auditor.pipeline.schedule import PREDICTION_TYPES, NoiseSchedule
from auditor.text import inert

__all__ = ["Components", "folder_hash", "load_components"]

T = TypeVar("T")

_PIPELINES = {"StableDiffusionPipeline": "sd", "StableDiffusionXLPipeline": "sdxl"}
_MODELS = ("vae", "unet", "text_encoder", "text_encoder_2")


@dataclass
class Components:
    """The parts of a text-to-image model, in evaluation mode, without gradients.

    ``modules`` holds ``unet``, ``vae``, ``text_encoder`` and, for SDXL, ``text_encoder_2``; ``tokenizers``
    is keyed like the text encoders. ``zero_null`` says that guidance runs against zeros in place of the empty
    prompt.
    """

    family: str
    modules: dict[str, nn.Module]
    tokenizers: dict[str, Any]
    scheduler: Any
    ref: str
    sha256: str
    revision: str = ""
    zero_null: bool = False
    _schedule: NoiseSchedule | None = field(default=None, repr=False)
    _remembered: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    @property
    def unet(self) -> Any:
        """The denoiser."""
        return self.modules["unet"]

    @property
    def vae(self) -> Any:
        """The autoencoder."""
        return self.modules["vae"]

    @property
    def text_encoders(self) -> dict[str, Any]:
        """Text encoders in the order in which their states are joined."""
        return {
            name: self.modules[name] for name in ("text_encoder", "text_encoder_2") if name in self.modules
        }

    @property
    def schedule(self) -> NoiseSchedule:
        """The training noise schedule."""
        if self._schedule is None:
            self._schedule = NoiseSchedule.of(self.scheduler)
        return self._schedule

    @property
    def device(self) -> torch.device:
        """Where the denoiser is."""
        found: torch.device = next(self.unet.parameters()).device
        return found

    @property
    def dtype(self) -> torch.dtype:
        """The denoiser's parameter type."""
        found: torch.dtype = next(self.unet.parameters()).dtype
        return found

    def remember(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Computes something about the base once in the life of these components.

        Only for what depends on the base weights and ``key`` alone; many subjects on one base share it.
        """
        if key not in self._remembered:
            self._remembered[key] = compute()
        value: T = self._remembered[key]
        return value

    def new_scheduler(self, cls: type | None = None) -> Any:
        """A fresh scheduler of ``cls``, or of the base's own class; stateful, so never shared between two runs."""
        return (cls or type(self.scheduler)).from_config(self.scheduler.config)  # type: ignore[attr-defined]


def load_components(
    folder: Path, device: torch.device, dtype: torch.dtype, ref: str = "", revision: str = ""
) -> Components:
    """Opens a diffusers folder.

    Args:
        folder: a folder with ``model_index.json``.
        device: where the weights go.
        dtype: floating type of the weights; the autoencoder stays float32, which half precision overflows.
        ref: how the user named it, for the report.
        revision: pinned hub revision, if any.

    Raises:
        BaseUnavailable: not a supported pipeline folder, or weights that are quantised or not safetensors.
        CoverageError: a component's file lacks weights that the model needs, or has others.
    """
    shown = inert(ref or str(folder))
    index = _read_json(
        folder / "model_index.json", f"'{shown}' is not a diffusers model folder (no model_index.json)"
    )
    kind = _PIPELINES.get(str(index.get("_class_name")))
    if kind is None:
        known, wanted = ", ".join(_PIPELINES), inert(str(index.get("_class_name")))
        raise BaseUnavailable(f"base pipeline class '{wanted}' is not supported; supported are {known}")
    for name, found in quantised_folder(folder, _MODELS).items():
        if not found.loadable:
            raise BaseUnavailable(f"base component {name} cannot be used: its {found.told}")
    with _no_progress_bars():
        modules = {name: _load_model(folder / name, name) for name in _MODELS if (folder / name).is_dir()}
    for needed in ("vae", "unet", "text_encoder", *(("text_encoder_2",) if kind == "sdxl" else ())):
        if needed not in modules:
            raise BaseUnavailable(f"base '{shown}' has no {needed} folder")
    for name, module in modules.items():
        kept = torch.float32 if name == "vae" else dtype
        # Past diffusers' own ``to``, which warns about float32 modules even where there are none.
        nn.Module.to(module, device=device, dtype=kept)
        module.eval().requires_grad_(False)
    return Components(
        family=_family(kind, modules["unet"]),
        modules=modules,
        tokenizers=_load_tokenizers(folder, modules),
        scheduler=_load_scheduler(folder / "scheduler"),
        ref=ref or str(folder),
        sha256=folder_hash(folder),
        revision=revision,
        zero_null=kind == "sdxl" and bool(index.get("force_zeros_for_empty_prompt", True)),
    )


def folder_hash(folder: Path) -> str:
    """SHA-256 over the names and bytes of every weight, tokenizer and configuration file, in name order."""
    files = sorted(
        p for p in folder.rglob("*") if p.suffix in {".safetensors", ".json", ".txt"} and p.is_file()
    )
    stamp = tuple((str(p.relative_to(folder)), p.stat().st_size, p.stat().st_mtime_ns) for p in files)
    return _hash_files(folder, stamp)


@lru_cache(maxsize=16)
def _hash_files(folder: Path, stamp: tuple[tuple[str, int, int], ...]) -> str:
    total = hashlib.sha256()
    for name, _, _ in stamp:
        with (folder / name).open("rb") as file:
            total.update(name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _load_model(folder: Path, name: str) -> nn.Module:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from safetensors import SafetensorError
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    config = _read_json(folder / "config.json", f"base component {name} has no config.json")
    classes: dict[str, Any] = {
        "AutoencoderKL": AutoencoderKL, "UNet2DConditionModel": UNet2DConditionModel,
        "CLIPTextModel": CLIPTextModel, "CLIPTextModelWithProjection": CLIPTextModelWithProjection,
    }  # fmt: skip
    wanted = str(config.get("_class_name") or (config.get("architectures") or [""])[0])
    if wanted not in classes:
        raise BaseUnavailable(f"base component {name} has class '{inert(wanted)}', which is not supported")
    variant = _variant(folder, name)
    try:
        model, loaded = classes[wanted].from_pretrained(
            str(folder),
            local_files_only=True,
            use_safetensors=True,
            variant=variant,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, TypeError, SafetensorError) as error:
        what = inert(str(error).strip().partition("\n")[0], 200)
        raise BaseUnavailable(f"base component {name} cannot be loaded: {what}") from error
    _check_complete(model, loaded, name)
    found: nn.Module = model
    return found


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


def _load_tokenizers(folder: Path, modules: dict[str, nn.Module]) -> dict[str, Any]:
    from transformers import CLIPTokenizer

    found = {}
    for encoder, name in (("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2")):
        if encoder in modules:
            if not (folder / name).is_dir():
                raise BaseUnavailable(f"base has no {name} folder")
            found[encoder] = _sized(
                CLIPTokenizer.from_pretrained(str(folder / name), local_files_only=True), modules[encoder]
            )
    if len({frozenset(tokenizer.get_vocab().items()) for tokenizer in found.values()}) > 1:
        raise BaseUnavailable(
            "the text encoders of the base have different vocabularies, which is not supported"
        )
    return found


def _sized(tokenizer: Any, encoder: nn.Module) -> Any:
    # A tokenizer saved without its length would pad every prompt without end.
    longest = int(encoder.config.max_position_embeddings)  # type: ignore[union-attr, arg-type]
    tokenizer.model_max_length = min(tokenizer.model_max_length, longest)
    return tokenizer


def _load_scheduler(folder: Path) -> Any:
    import diffusers

    config = _read_json(folder / "scheduler_config.json", "base has no scheduler/scheduler_config.json")
    name = str(config.get("_class_name", "DDIMScheduler"))
    cls = getattr(diffusers, name, None) if name.endswith("Scheduler") else None
    if cls is None:
        raise BaseUnavailable(f"base scheduler class '{inert(name)}' is unknown")
    scheduler = cls.from_config(copy.deepcopy(config))
    kind = str(scheduler.config.get("prediction_type", ""))
    if not hasattr(scheduler, "alphas_cumprod") or kind not in PREDICTION_TYPES:
        raise BaseUnavailable(
            f"base scheduler '{inert(name)}' with prediction '{inert(kind)}' is not supported: a variance-preserving "
            f"schedule that predicts {', '.join(PREDICTION_TYPES)} is needed"
        )
    return scheduler


def _family(kind: str, unet: nn.Module) -> str:
    if kind == "sdxl":
        return "sdxl"
    width = int(unet.config.cross_attention_dim)  # type: ignore[union-attr, arg-type]
    return {768: "sd1", 1024: "sd2", 192: "embedded"}.get(width, "other")


def _read_json(path: Path, sentence: str) -> dict[str, Any]:
    if not path.is_file():
        raise BaseUnavailable(sentence)
    try:
        value = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BaseUnavailable(f"'{inert(str(path))}' is not valid JSON") from error
    if not isinstance(value, dict):
        raise BaseUnavailable(f"'{inert(str(path))}' does not hold a JSON object")
    return value
