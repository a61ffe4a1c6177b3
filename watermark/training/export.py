"""A trained network as it ships: half precision, with what it was trained beside and the hash of its file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from auditor.artifact.safetensors_write import write_arrays
from auditor.world.train.config import VAE, Recipe
from watermark.networks.shipped import encoder_digest

__all__ = ["export_network"]


def export_network(net: nn.Module, vae: Any, recipe: Recipe, steps: int, target: Path) -> Path:
    """Writes ``model.safetensors`` and ``config.json`` into a new folder.

    Args:
        net: the network; stays as it is.
        vae: the autoencoder that it was trained beside.
        recipe: how.
        steps: how many were taken.
        target: the folder; made.

    Raises:
        OutputError: there is a file of that name already, or it cannot be written.
    """
    import hashlib

    target.mkdir(parents=True, exist_ok=True)
    arrays = {name: value.detach().half().cpu().numpy() for name, value in net.state_dict().items()}
    path = write_arrays(target / "model.safetensors", arrays, {"format": "pt"})
    config = {
        "autoencoder": VAE,
        "encoder": encoder_digest(vae),
        "recipe": asdict(recipe),
        "steps": steps,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    (target / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", "utf-8")
    return path
