"""The networks that ship with the wing, opened from the package and checked against what was exported."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from auditor.artifact.safetensors_file import SafetensorsFile
from auditor.errors import AuditorError, BaseUnavailable, UsageError
from watermark.networks.safe_sd import SafeSdNet

if TYPE_CHECKING:
    from auditor.pipeline.components import Components

__all__ = ["encoder_digest", "safe_sd_for", "shipped_folder"]


def shipped_folder() -> Path:
    """Where the weights of the trained marks lie."""
    return Path(__file__).parents[1] / "weights"


def safe_sd_for(components: Components, scheme: str) -> SafeSdNet:
    """Injection and extraction of Safe-SD, in evaluation mode on the model's device, float32.

    Args:
        components: the model beside whose autoencoder they work.
        scheme: id of the scheme that asks, for the message.

    Raises:
        UsageError: they were trained beside another encoder than the model's.
        BaseUnavailable: the weights are missing, or not those that were exported.
    """
    net, encoder = _opened(shipped_folder() / "safe_sd")
    own = components.remember("encoder digest", lambda: encoder_digest(components.vae))
    if own != encoder:
        raise UsageError(
            f"{scheme} reads and writes through the autoencoder of the embedded base, beside which its networks were "
            "trained, and this model encodes pictures in another way; use tail_sign, which needs no training"
        )
    return net.to(components.device)


def encoder_digest(vae: Any) -> str:
    """SHA-256 of the encoder's weights in half precision, which a change to the decoder leaves alone."""
    digest = hashlib.sha256()
    for part in (vae.encoder, vae.quant_conv):
        for name, value in sorted(part.state_dict().items()) if part is not None else ():
            digest.update(name.encode() + value.detach().half().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@cache
def _opened(folder: Path) -> tuple[SafeSdNet, str]:
    """The networks of a folder, and the digest of the encoder that they were trained beside."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        net = _built(config["autoencoder"])
        with SafetensorsFile(folder / "model.safetensors") as file:
            if file.sha256 != config["sha256"]:
                raise BaseUnavailable("the weights of the trained marks were changed; install the package again")
            state = {name: torch.from_numpy(file.tensor(name)).float() for name in file.names}
        net.load_state_dict(state)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise BaseUnavailable("the weights of the trained marks cannot be read; install the package again") from error
    except AuditorError as error:
        raise BaseUnavailable(f"the weights of the trained marks cannot be used: {error}") from error
    return net.eval().requires_grad_(False), str(config["encoder"])


def _built(config: dict[str, Any]) -> SafeSdNet:
    from diffusers import AutoencoderKL

    vae: Any = AutoencoderKL(**config)
    decoder: nn.Module = vae.decoder
    return SafeSdNet(int(config["latent_channels"]), decoder, vae.post_quant_conv)
