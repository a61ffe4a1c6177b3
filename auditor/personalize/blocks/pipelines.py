"""A fine-tuned model as a folder that ``DiffusionPipeline.from_pretrained`` opens, written whole or not at all."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from auditor.errors import OutputError
from auditor.personalize.blocks.processes import only_main
from auditor.pipeline.components import Components
from auditor.text import inert

__all__ = ["save_pipeline"]

_NAMES = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}


def save_pipeline(
    folder: Path, base: Components, trained: Mapping[str, nn.Module], dtype: torch.dtype = torch.float16
) -> list[Path]:
    """Writes base and trained components together as safetensors.

    Args:
        folder: a new folder; it appears when everything is in it.
        base: gives what was not trained, its tokenizers and its scheduler.
        trained: component name to module.
        dtype: what weights are rounded to.

    Returns:
        Every file in it, in name order.

    Raises:
        OutputError: the folder is there already or cannot be written, or a weight is not finite in ``dtype``.
    """
    only_main()
    shown = inert(str(folder), 200)
    if folder.exists():
        raise OutputError(f"'{shown}' exists already; choose another place with -o")
    modules = {name: _rounded(name, trained.get(name, own), dtype) for name, own in base.modules.items()}
    part = folder.with_name(f"{folder.name}.part")
    # What an earlier attempt that was killed left behind.
    shutil.rmtree(part, ignore_errors=True)
    try:
        with _no_bars():
            _pipeline(base, modules).save_pretrained(part, safe_serialization=True)
        part.replace(folder)
    except OSError as error:
        raise OutputError(f"cannot write '{shown}': {error.strerror}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _rounded(name: str, module: nn.Module, dtype: torch.dtype) -> nn.Module:
    # Past diffusers' own ``to``, which warns about float32 modules even where there are none.
    rounded = nn.Module.to(copy.deepcopy(module), device="cpu", dtype=dtype)
    if not all(bool(torch.isfinite(value).all()) for value in rounded.parameters()):
        raise OutputError(f"weights of {name} are not finite after training; lower the learning rate")
    return rounded


@contextmanager
def _no_bars() -> Iterator[None]:
    """Training has its own progress; what the caller had set is put back."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _pipeline(base: Components, modules: Mapping[str, nn.Module]) -> Any:
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    parts: dict[str, Any] = {**modules, "scheduler": base.new_scheduler()}
    parts |= {_NAMES[encoder]: tokenizer for encoder, tokenizer in base.tokenizers.items()}
    if base.family == "sdxl":
        return StableDiffusionXLPipeline(
            **parts, force_zeros_for_empty_prompt=base.zero_null, add_watermarker=False
        )
    return StableDiffusionPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
