"""The embedded models, opened from the package: a diffusion pipeline and the networks that judge pictures.

Everything is read from local safetensors files; nothing is downloaded. The measuring networks are cached and
must not be changed by the caller. A pipeline is made anew on each call, because adapters are put on it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from auditor.errors import BaseUnavailable

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from auditor.world.nets import IdentityNet, Judge

__all__ = [
    "GUIDANCE",
    "STEPS",
    "embedded_folder",
    "embedded_pipeline",
    "guidance_of",
    "load_dual",
    "load_identity",
    "load_judge",
    "load_manifest",
    "load_tokenizer",
]

GUIDANCE = 3.0
"""Guidance scale of the embedded model where its manifest names none."""
STEPS = 25
"""DDIM steps that its figures are given for."""

_Net = TypeVar("_Net", bound="nn.Module")


def embedded_folder() -> Path:
    """Where the shipped ``pipeline/``, ``dual/``, ``judge/``, ``identity/`` and ``manifest.json`` lie."""
    return Path(__file__).parent / "weights"


def load_manifest(folder: Path | None = None) -> dict[str, Any]:
    """What was exported: recipe, steps done, and size and sha256 of each file.

    Raises:
        BaseUnavailable: There is no readable manifest.
    """
    manifest = _json(_part(folder or embedded_folder(), "manifest.json"))
    return manifest


def guidance_of(folder: Path | None = None) -> float:
    """The guidance scale that the weights were measured with."""
    return float(load_manifest(folder).get("guidance_scale", GUIDANCE))


def embedded_pipeline(
    device: str | torch.device = "cpu", dtype: torch.dtype | None = None, folder: Path | None = None
) -> Any:
    """A fresh ``StableDiffusionPipeline`` of the embedded model, 64x64 pixels by default.

    Args:
        device: Where to put it.
        dtype: Of the weights; float32 by default.
        folder: Another export than the shipped one.

    Raises:
        BaseUnavailable: A part of the pipeline is not there, or is not what it should be.
    """
    import torch
    from diffusers import StableDiffusionPipeline

    root = folder or embedded_folder()
    for part in ("model_index.json", "unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        _part(root, f"pipeline/{part}")
    try:
        with _no_loading_bars():
            pipeline = StableDiffusionPipeline.from_pretrained(
                root / "pipeline", local_files_only=True, use_safetensors=True
            )
    except (OSError, ValueError, TypeError) as error:
        raise BaseUnavailable("The embedded pipeline cannot be read; install the package again.") from error
    # Cast here: the name of the argument for it differs between the versions of diffusers that we allow.
    for module in (pipeline.vae, pipeline.unet, pipeline.text_encoder):
        torch.nn.Module.to(module, device=torch.device(device), dtype=dtype or torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_tokenizer(folder: Path | None = None) -> Any:
    """The ``CLIPTokenizer`` of the pipeline and the dual encoder."""
    return _cached_tokenizer(_part(folder or embedded_folder(), "pipeline/tokenizer"))


def load_dual(device: str | torch.device = "cpu", folder: Path | None = None) -> Any:
    """The ``open_clip.CLIP`` dual encoder in evaluation mode; use it with :func:`load_tokenizer`."""
    return _cached_dual(_part(folder or embedded_folder(), "dual"), str(device))


def load_judge(device: str | torch.device = "cpu", folder: Path | None = None) -> Judge:
    """The attribute judge in evaluation mode."""
    return _cached_judge(_part(folder or embedded_folder(), "judge"), str(device))


def load_identity(device: str | torch.device = "cpu", folder: Path | None = None) -> IdentityNet:
    """The identity embedder in evaluation mode."""
    return _cached_identity(_part(folder or embedded_folder(), "identity"), str(device))


@cache
def _cached_tokenizer(path: Path) -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(path, local_files_only=True)


@cache
def _cached_dual(path: Path, device: str) -> Any:
    import open_clip
    from safetensors.torch import load_file

    from auditor.world.text_tower import from_transformers

    # The text tower is stored once, in the pipeline.
    text = load_file(_part(path.parent, "pipeline/text_encoder/model.safetensors"))
    layers = int(_json(path / "config.json")["model"]["text_cfg"]["layers"])
    shared = from_transformers(text, layers)
    return _filled(path, device, lambda config: open_clip.CLIP(**config), shared)


@cache
def _cached_judge(path: Path, device: str) -> Judge:
    from auditor.world.nets import Judge

    return _filled(path, device, lambda config: Judge(**config))


@cache
def _cached_identity(path: Path, device: str) -> IdentityNet:
    from auditor.world.nets import IdentityNet

    return _filled(path, device, lambda config: IdentityNet(**config))


@contextmanager
def _no_loading_bars() -> Iterator[None]:
    """Half a second of loading needs no bars; what the caller had set is put back."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    shown = [each for each in (diffusers_logging, transformers_logging) if each.is_progress_bar_enabled()]
    for each in shown:
        each.disable_progress_bar()
    try:
        yield
    finally:
        for each in shown:
            each.enable_progress_bar()


def _filled(
    path: Path,
    device: str,
    build: Callable[[dict[str, Any]], _Net],
    shared: Mapping[str, Tensor] = MappingProxyType({}),
) -> _Net:
    """The network that ``config.json`` describes, with all of ``model.safetensors`` and ``shared``, in float32."""
    from safetensors.torch import load_file

    config = _json(_part(path, "config.json"))
    try:
        net = build(config["model"])
        state = {**load_file(_part(path, "model.safetensors")), **shared}
        net.load_state_dict(
            {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
        )
    except (KeyError, TypeError, RuntimeError, OSError) as error:
        raise BaseUnavailable(
            f"The embedded {path.name} weights do not fit their config; install the package again."
        ) from error
    return net.eval().requires_grad_(False).to(device)


def _part(root: Path, name: str) -> Path:
    path = root / name
    if not path.exists():
        raise BaseUnavailable(
            f"The embedded world has no {name} in {root}; install the package with its weights, "
            "or make them with python -m auditor.world.train."
        )
    return path


def _json(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BaseUnavailable(f"{path.name} of the embedded world cannot be read.") from error
    if not isinstance(loaded, dict):
        raise BaseUnavailable(f"{path.name} of the embedded world is not a JSON object.")
    return loaded
