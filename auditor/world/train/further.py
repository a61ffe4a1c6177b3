"""More steps for the shipped denoiser alone; what it stands on (autoencoder, text tower, tokenizer) stays as it is.

The other networks need no checkpoint for this: they are read from an export, and every file but the
denoiser's comes back byte for byte.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from auditor.world.embedded import embedded_pipeline
from auditor.world.train.config import FURTHER
from auditor.world.train.data import SceneData
from auditor.world.train.export import list_files
from auditor.world.train.loop import load_ema
from auditor.world.train.unet import cache_latents, train_unet

__all__ = ["export_further", "train_further"]

_NAME = "further"


def train_further(weights: Path, folder: Path, device: torch.device) -> UNet2DConditionModel:
    """Trains the denoiser of an export on, under :data:`FURTHER`; resumes from ``folder/further.pt``.

    Args:
        weights: an export of the embedded world.
        folder: where scenes, latents and the checkpoint live.
        device: where to train.
    """
    pipeline = embedded_pipeline(device, folder=weights)
    data = SceneData(folder)
    latents = cache_latents(pipeline.vae, data, folder, device, most=data.count)
    return train_unet(
        data,
        latents,
        float(pipeline.vae.config.scaling_factor),
        pipeline.text_encoder,
        pipeline.tokenizer,
        folder,
        device,
        unet=pipeline.unet.requires_grad_(True),
        name=_NAME,
        recipe=FURTHER,
    )


def export_further(weights: Path, folder: Path, target: Path) -> dict[str, Any]:
    """Writes ``weights`` with the denoiser as it stands in ``folder`` to ``target``; returns the manifest.

    Raises:
        FileExistsError: ``target`` is there already.
    """
    unet = embedded_pipeline(folder=weights).unet
    load_ema(_NAME, unet, folder)
    steps = int(torch.load(folder / f"{_NAME}.pt", map_location="cpu", weights_only=True, mmap=True)["step"])
    shutil.copytree(weights, target)
    nn.Module.half(unet)
    unet.save_pretrained(target / "pipeline" / "unet", safe_serialization=True)
    # Saved from another folder, the configuration would carry that folder's name.
    shutil.copyfile(weights / "pipeline" / "unet" / "config.json", target / "pipeline" / "unet" / "config.json")
    path = target / "manifest.json"
    manifest: dict[str, Any] = json.loads(path.read_text("utf-8"))
    manifest["recipes"][_NAME], manifest["steps_done"][_NAME] = asdict(FURTHER), steps
    path.unlink()
    manifest["files"] = list_files(target)
    path.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", "utf-8")
    return manifest
