"""The stages of training by name, each of which needs only the folder that the earlier ones wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from transformers import CLIPTokenizer

from auditor.world.train.data import SceneData
from auditor.world.train.decoder import train_decoder
from auditor.world.train.dual import Dual, text_model_of, train_dual
from auditor.world.train.export import export
from auditor.world.train.identity import train_identity
from auditor.world.train.judge import train_judge
from auditor.world.train.loop import load_ema
from auditor.world.train.tokenizer import train_tokenizer
from auditor.world.train.unet import cache_latents, train_unet
from auditor.world.train.vae import build_vae, latent_scale, train_vae

__all__ = ["STAGES", "export"]

Stage = Callable[[Path, torch.device], None]


def _data(folder: Path, _: torch.device) -> None:
    SceneData(folder)


def _tokenizer(folder: Path, _: torch.device) -> None:
    # Checkpoints of the text tower mean nothing under another vocabulary.
    if not (folder / "tokenizer").is_dir():
        train_tokenizer(folder / "tokenizer")


def _dual(folder: Path, device: torch.device) -> None:
    train_dual(SceneData(folder), folder, device)


def _vae(folder: Path, device: torch.device) -> None:
    train_vae(SceneData(folder), folder, device)


def _unet(folder: Path, device: torch.device) -> None:
    data, dual = SceneData(folder), Dual()
    vae: AutoencoderKL = build_vae()
    load_ema("vae", vae, folder)
    load_ema("dual", dual, folder)
    vae.to(device)
    scale, latents = latent_scale(vae, data, device), cache_latents(vae, data, folder, device)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    train_unet(data, latents, scale, text_model_of(dual.clip), tokenizer, folder, device)


def _decoder(folder: Path, device: torch.device) -> None:
    data, vae = SceneData(folder), build_vae()
    load_ema("vae", vae, folder)
    train_decoder(vae, data, cache_latents(vae.to(device), data, folder, device), folder, device)


def _judge(folder: Path, device: torch.device) -> None:
    train_judge(SceneData(folder), folder, device)


def _identity(folder: Path, device: torch.device) -> None:
    train_identity(folder, device)


STAGES: dict[str, Stage] = {
    "data": _data,
    "tokenizer": _tokenizer,
    "dual": _dual,
    "vae": _vae,
    "decoder": _decoder,
    "unet": _unet,
    "judge": _judge,
    "identity": _identity,
}
"""Every stage resumes from its checkpoint and returns at once when it is done."""
