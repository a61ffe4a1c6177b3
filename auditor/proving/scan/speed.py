"""Seconds for the same folders by each scanner, in turns within one run."""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from auditor.artifact.safetensors_write import encode_arrays

__all__ = ["RATIOS", "ratios", "write_pickles", "write_tensor_files"]

_MODULE = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_{}_attn2_to_k"

RATIOS = {"pickles": 1.0, "safetensors": 10.0}
"""By kind of file: the ratio asked for, of the fastest peer's seconds (of modelaudit's, for safetensors) to ours."""


def write_pickles(folder: Path, count: int = 120, seed: int = 0) -> Path:
    """Torch files of 2 to 192 modules with three tensors each, fp16, bf16 and fp32, a quarter of them legacy."""
    import torch

    def file(number: int, rng: np.random.Generator) -> bytes:
        rank, state = (2, 4, 8)[number % 3], {}
        dtype = (torch.float16, torch.float32, torch.bfloat16)[number % 3]
        for module in range((2, 8, 32, 96, 192)[number % 5]):
            name = _MODULE.format(module)
            state[f"{name}.lora_down.weight"] = torch.from_numpy(rng.normal(size=(rank, 64))).to(dtype)
            state[f"{name}.lora_up.weight"] = torch.from_numpy(rng.normal(size=(64, rank))).to(dtype)
            state[f"{name}.alpha"] = torch.tensor(float(rank), dtype=dtype)
        out = io.BytesIO()
        torch.save(state, out, _use_new_zipfile_serialization=number % 4 != 3)
        return out.getvalue()

    return _write(folder, count, seed, "pt", file)


def write_tensor_files(folder: Path, count: int = 100, seed: int = 0) -> Path:
    """LoRA files of rank 4 to 64 over 32 modules, 0.2 to 4 MB each."""

    def file(number: int, rng: np.random.Generator) -> bytes:
        rank = (4, 8, 16, 32, 64)[number % 5]
        arrays = {
            f"{_MODULE.format(module)}.{part}.weight": (rng.normal(size=shape) / 8).astype("f2")
            for module in range(32)
            for part, shape in (("lora_down", (rank, 768)), ("lora_up", (320, rank)))
        }
        return encode_arrays(arrays, {"ss_network_dim": str(rank)})

    return _write(folder, count, seed, "safetensors", file)


def ratios(rounds: Sequence[Mapping[str, float]], ours: str, peers: list[str]) -> dict[str, dict[str, Any]]:
    """Per peer: the median over rounds of its seconds by ours in the same round, and the smallest and largest."""
    found: dict[str, dict[str, Any]] = {}
    for peer in peers:
        each = [one[peer] / one[ours] for one in rounds if peer in one and ours in one]
        if each:
            median = statistics.median(each)
            found[peer] = {"median": median, "low": min(each), "high": max(each), "rounds": len(each)}
    return found


def _write(
    folder: Path, count: int, seed: int, suffix: str, file: Callable[[int, np.random.Generator], bytes]
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        path = folder / f"model-{number:04d}.{suffix}"
        if not path.exists():
            part = path.with_suffix(".part")
            part.write_bytes(file(number, np.random.default_rng((seed, number))))
            part.replace(path)
    return folder
