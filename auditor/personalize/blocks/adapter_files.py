"""Adapters as safetensors in namings that loaders know: kohya's flattened names, and parameters by their own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from auditor.artifact.safetensors_write import write_arrays
from auditor.personalize.blocks.saving import make_folder

__all__ = ["kohya_name", "save_tensors"]


def kohya_name(path: str, denoiser: str = "unet") -> str:
    """``down_blocks.0.attentions.0`` of the denoiser as kohya's tools flatten it; ``unet`` or ``transformer``."""
    return f"lora_{denoiser}_{path.replace('.', '_')}"


def save_tensors(
    folder: Path, name: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, half: bool = True
) -> Path:
    """Writes one safetensors file, deterministic in its bytes.

    Args:
        folder: made if it is not there.
        name: of the file.
        tensors: key to values, any device.
        metadata: strings beside them.
        half: stored as float16, else float32: for parameters whose structure is in digits that float16 loses.

    Raises:
        OutputError: the file is there already, or cannot be written.
    """
    make_folder(folder)
    arrays = {
        key: (value.detach().half() if half else value.detach().float()).cpu().numpy() for key, value in tensors.items()
    }
    return write_arrays(folder / name, arrays, {"format": "pt", **(metadata or {})})
