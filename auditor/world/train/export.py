"""Checkpoints as they stand, written as model folders in the ecosystem's own formats, fp16 safetensors."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTokenizer

from auditor.world.embedded import GUIDANCE
from auditor.world.text_tower import is_text_key
from auditor.world.train.config import DUAL, IDENTITY, JUDGE, RECIPES, SCHEDULER
from auditor.world.train.data import SceneData
from auditor.world.train.decoder import load_decoder_ema
from auditor.world.train.dual import Dual, text_model_of
from auditor.world.train.identity import build_identity
from auditor.world.train.judge import build_judge
from auditor.world.train.loop import load_ema
from auditor.world.train.unet import build_unet
from auditor.world.train.vae import build_vae, latent_scale

__all__ = ["LIMIT_BYTES", "byte_table", "export", "list_files", "write_network", "write_pipeline"]

LIMIT_BYTES = 34_000_000


def export(checkpoints: Path, target: Path, guidance: float = GUIDANCE) -> dict[str, Any]:
    """Writes what is there into ``target`` and returns the manifest; an existing export there is replaced.

    ``pipeline/`` needs the checkpoints of dual, vae and unet; ``dual/``, ``judge/`` and ``identity/`` need
    their own. What is missing is left out and not in the manifest.

    Raises:
        FileNotFoundError: There is no tokenizer, or no checkpoint at all.
    """
    done = {name: _steps_done(checkpoints, name) for name in RECIPES}
    present = {name for name, steps in done.items() if steps}
    if not present or not (checkpoints / "tokenizer").is_dir():
        raise FileNotFoundError(f"no tokenizer and checkpoints in {checkpoints}")
    staging = target.with_name(target.name + ".part")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    scale = 0.0
    dual = Dual()
    if "dual" in present:
        load_ema("dual", dual, checkpoints)
        write_network(dual.clip, DUAL, staging / "dual", skip=is_text_key)
    if {"dual", "vae", "unet"} <= present:
        vae, unet = build_vae(), build_unet()
        load_ema("vae", vae, checkpoints)
        if "decoder" in present:
            load_decoder_ema(vae, checkpoints)
        load_ema("unet", unet, checkpoints)
        scale = latent_scale(vae, SceneData(checkpoints), torch.device("cpu"))
        tokenizer = CLIPTokenizer.from_pretrained(checkpoints / "tokenizer")
        write_pipeline(vae, scale, unet, text_model_of(dual.clip), tokenizer, staging / "pipeline")
    if "judge" in present:
        write_network(load_ema("judge", build_judge(), checkpoints), JUDGE, staging / "judge")
    if "identity" in present:
        trainer = build_identity()
        load_ema("identity", trainer, checkpoints)
        write_network(trainer.net, IDENTITY, staging / "identity")
    manifest = {
        "guidance_scale": guidance,
        "latent_scale": scale,
        "steps_done": {name: done[name] for name in sorted(present)},
        "recipes": {name: asdict(recipe) for name, recipe in RECIPES.items()},
        "files": list_files(staging),
    }
    (staging / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", "utf-8")
    shutil.rmtree(target, ignore_errors=True)
    staging.rename(target)
    print(byte_table(manifest), file=sys.stderr)
    return manifest


def write_pipeline(
    vae: AutoencoderKL, scale: float, unet: nn.Module, text: nn.Module, tokenizer: CLIPTokenizer, folder: Path
) -> None:
    """An ordinary ``StableDiffusionPipeline`` folder in fp16; the modules given become fp16 themselves."""
    vae.register_to_config(scaling_factor=scale)
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(**SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    for module in (vae, unet, text):
        nn.Module.half(module)
    pipeline.save_pretrained(folder, safe_serialization=True)


def write_network(
    net: nn.Module, config: dict[str, Any], folder: Path, skip: Callable[[str], bool] = lambda key: False
) -> None:
    """``model.safetensors`` (parameters in fp16, running statistics as they are) beside ``config.json``.

    Keys that ``skip`` says yes to are left out: the dual encoder's text tower is the pipeline's own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    learned = {name for name, _ in net.named_parameters()}
    state = {
        name: (value.half() if name in learned else value).detach().cpu().contiguous()
        for name, value in net.state_dict().items()
        if not skip(name)
    }
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"model": config}, indent=1) + "\n", "utf-8")


def byte_table(manifest: dict[str, Any]) -> str:
    """One line per file of at least a kilobyte, largest first, and the sum against :data:`LIMIT_BYTES`."""
    sizes = {name: entry["bytes"] for name, entry in manifest["files"].items()}
    total = sum(sizes.values())
    lines = [
        f"{size:>12,}  {name}"
        for name, size in sorted(sizes.items(), key=lambda item: -item[1])
        if size >= 1000
    ]
    verdict = "within" if total <= LIMIT_BYTES else "ABOVE"
    return "\n".join([*lines, f"{total:>12,}  in all, {verdict} the limit of {LIMIT_BYTES:,} bytes"])


def _steps_done(folder: Path, name: str) -> int:
    path = folder / f"{name}.pt"
    if not path.exists():
        return 0
    return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["step"])


def list_files(root: Path) -> dict[str, dict[str, Any]]:
    """Size and sha256 of every file below ``root``, by relative path."""
    found = {}
    for path in sorted(root.rglob("*")):
        if path.is_file():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            found[path.relative_to(root).as_posix()] = {"bytes": path.stat().st_size, "sha256": digest}
    return found
