"""A base model opened from a folder: what it is made of, and the one place that holds its parts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from auditor.artifact.quantised import quantised_folder
from auditor.errors import BaseUnavailable
from auditor.pipeline.families import FAMILIES, Family
from auditor.pipeline.families.family import vae_factor
from auditor.pipeline.loading import load_model, load_scheduler, load_tokenizers, read_json
from auditor.pipeline.schedule import NoiseSchedule
from auditor.text import inert

__all__ = ["Components", "folder_hash", "load_components"]

T = TypeVar("T")


@dataclass
class Components:
    """The parts of a text-to-image model, in evaluation mode, without gradients.

    ``modules`` holds ``vae``, the denoiser (``unet`` or ``transformer``) and the text encoders; ``tokenizers`` is
    keyed like the text encoders. ``kind`` knows how the family works, ``family`` is its name in reports.
    ``zero_null`` says that guidance runs against zeros in place of the empty prompt.
    """

    kind: Family
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
    def family(self) -> str:
        """``sd1``, ``sdxl``, ``flux``...; ``other`` for an architecture that no published base has."""
        return self.kind.name(self)

    @property
    def denoiser_model(self) -> Any:
        """The network that denoises, whatever its class."""
        return self.modules[self.kind.denoiser]

    @property
    def unet(self) -> Any:
        """The denoiser, for methods that are about UNets.

        Raises:
            BaseUnavailable: the denoiser is a transformer.
        """
        if "unet" not in self.modules:
            raise BaseUnavailable(f"this needs a base with a UNet; '{inert(self.ref)}' is {self.family}")
        return self.modules["unet"]

    @property
    def vae(self) -> Any:
        """The autoencoder."""
        return self.modules["vae"]

    @property
    def text_encoders(self) -> dict[str, Any]:
        """Text encoders in the order in which their states are joined."""
        return {name: self.modules[name] for name in self.kind.encoders if name in self.modules}

    @property
    def schedule(self) -> NoiseSchedule:
        """The training noise schedule."""
        if self._schedule is None:
            self._schedule = NoiseSchedule.of(self.scheduler)
        return self._schedule

    @property
    def image_size(self) -> int:
        """Pixels of a side of the base's own images."""
        return self.kind.latent_shape(self)[-1] * vae_factor(self)

    @property
    def device(self) -> torch.device:
        """Where the denoiser is."""
        found: torch.device = next(self.denoiser_model.parameters()).device
        return found

    @property
    def dtype(self) -> torch.dtype:
        """The denoiser's parameter type."""
        found: torch.dtype = next(self.denoiser_model.parameters()).dtype
        return found

    def remember(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Computes something about the base once in the life of these components.

        Only for what depends on the base weights and ``key`` alone; many subjects on one base share it.
        """
        if key not in self._remembered:
            self._remembered[key] = compute()
        value: T = self._remembered[key]
        return value

    def new_scheduler(self, cls: type | None = None, **changed: Any) -> Any:
        """A fresh scheduler of ``cls``, or of the base's own class; stateful, so never shared between two runs.

        It is configured as the base's own, but for what is ``changed``.
        """
        return (cls or type(self.scheduler)).from_config(self.scheduler.config, **changed)  # type: ignore[attr-defined]


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
    index = read_json(
        folder / "model_index.json", f"'{shown}' is not a diffusers model folder (no model_index.json)"
    )
    kind = FAMILIES.get(str(index.get("_class_name")))
    if kind is None:
        known, asked = ", ".join(FAMILIES), inert(str(index.get("_class_name")))
        raise BaseUnavailable(f"base pipeline class '{asked}' is not supported; supported are {known}")
    wanted = ("vae", kind.denoiser, *kind.encoders)
    for name, found in quantised_folder(folder, wanted).items():
        if not found.loadable:
            raise BaseUnavailable(f"base component {name} cannot be used: its {found.told}")
    modules = {}
    for name in wanted:
        left_out = name in kind.optional and not any(index.get(name) or ())
        if not left_out and (folder / name).is_dir():
            modules[name] = load_model(folder / name, name, device, torch.float32 if name == "vae" else dtype)
        elif name not in kind.optional:
            raise BaseUnavailable(f"base '{shown}' has no {name} folder")
    return Components(
        kind=kind,
        modules=modules,
        tokenizers=load_tokenizers(folder, kind, modules),
        scheduler=load_scheduler(folder / "scheduler", kind.flow),
        ref=ref or str(folder),
        sha256=folder_hash(folder),
        revision=revision,
        zero_null=kind.zero_null and bool(index.get("force_zeros_for_empty_prompt", True)),
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
