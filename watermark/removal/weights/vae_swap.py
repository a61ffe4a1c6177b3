"""Another autoencoder in place of the model's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from auditor.errors import IncompatibleArtifact
from auditor.pipeline.components import Components

__all__ = ["other_vae"]


@contextmanager
def other_vae(components: Components, vae: nn.Module) -> Iterator[None]:
    """The model with another autoencoder for the length of the block, as users swap fine-tuned decoders.

    Args:
        components: the model.
        vae: of the same latent channels and scale, in evaluation mode.

    Raises:
        IncompatibleArtifact: its latents are of another kind.
    """
    own, other = components.vae.config, vae.config
    for name in ("latent_channels", "scaling_factor", "shift_factor"):
        if getattr(own, name, None) != getattr(other, name, None):
            raise IncompatibleArtifact(
                f"the other autoencoder has another {name.replace('_', ' ')} than the base"
            )
    before = components.modules["vae"]
    components.modules["vae"] = vae
    try:
        yield
    finally:
        components.modules["vae"] = before
