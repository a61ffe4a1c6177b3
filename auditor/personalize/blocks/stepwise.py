"""Vectors at the end of an encoded prompt, others at each step of the sampler: kept in a file, and sampled with.

Layout of ``learned_steps.safetensors``, float32: ``steps`` (S, n, D), the first for the noisiest step; ``null``
(n, D), the same places of the empty prompt; metadata ``prompt``. Diffusers takes such states as ``prompt_embeds``,
and exchanges them by step in ``callback_on_step_end``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from auditor.artifact.safetensors_write import write_arrays
from auditor.errors import MalformedArtifact
from auditor.personalize.blocks.masks import to_latent_grid
from auditor.personalize.blocks.reference import Pasted, fit_placement, inverted_path, placed
from auditor.personalize.blocks.ruled import null_condition, ruled_sample
from auditor.personalize.blocks.saving import make_folder
from auditor.pipeline.components import Components
from auditor.pipeline.conditioning import Conditioning, encode_images, encode_prompts
from auditor.pipeline.denoiser import Denoiser
from auditor.pipeline.sampling import ddim_timesteps, guided_noise
from auditor.text import inert

__all__ = ["LearnedSteps", "Reference", "ended", "load_steps", "save_steps", "stepwise_sample"]


@dataclass(frozen=True)
class LearnedSteps:
    """The prompt it was learned under, vectors by step (S, n, D), noisiest first, and where they started (n, D)."""

    prompt: str
    vectors: Tensor
    null: Tensor


@dataclass(frozen=True)
class Reference:
    """A picture to be pasted: (1, 3, H, W) in [-1, 1], its mask, and the mask of the sample's own subject (1, 1, H, W).

    Attributes:
        image: the picture, best one whose subject is seen as in the sample.
        mask: where its subject is.
        target: where the sample drawn without a reference has its subject.
        start: sampler steps that are left where the picture is put in.
        end: sampler steps that are left where it is let go.
        rounds: optimiser steps on the empty prompt at each of them.
    """

    image: Tensor
    mask: Tensor
    target: Tensor
    start: int = 40
    end: int = 10
    rounds: int = 10


def ended(condition: Conditioning, vectors: Tensor) -> Conditioning:
    """A condition (B rows) whose last states are ``vectors`` (n, D)."""
    rows = vectors.to(condition.states.dtype).expand(len(condition), -1, -1)
    return Conditioning(torch.cat([condition.states[:, : -len(vectors)], rows], 1), condition.pooled)


def save_steps(folder: Path, learned: LearnedSteps) -> Path:
    """Writes ``learned_steps.safetensors``; raises ``OutputError`` if it is there already or cannot be written."""
    make_folder(folder)
    arrays = {"steps": learned.vectors.numpy(), "null": learned.null.numpy()}
    return write_arrays(folder / "learned_steps.safetensors", arrays, {"format": "pt", "prompt": learned.prompt})


def load_steps(path: Path) -> LearnedSteps:
    """Reads what :func:`save_steps` wrote; raises ``MalformedArtifact`` where it is no such file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            steps, null = file.get_tensor("steps"), file.get_tensor("null")
            if steps.ndim != 3 or steps.shape[1:] != null.shape:
                raise ValueError("other shapes")
            return LearnedSteps((file.metadata() or {})["prompt"], steps, null)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise MalformedArtifact(f"'{inert(str(path), 200)}' holds no learned steps") from error


def stepwise_sample(
    base: Components,
    learned: LearnedSteps,
    prompt: str,
    noise: Tensor,
    guidance: float = 7.5,
    reference: Reference | None = None,
) -> Tensor:
    """DDIM with each step's vectors, as many steps as were learned.

    Args:
        base: the model.
        learned: the vectors.
        prompt: any; its encoding's end is replaced.
        noise: (B, C, h, w), unit variance.
        guidance: weight w.
        reference: a picture to paste; drawn first without one, from the same noise, to see where the subject is.

    Returns:
        Clean latents (B, C, h, w), float32.
    """
    times = ddim_timesteps(len(base.schedule), len(learned.vectors))
    null, denoiser = null_condition(base, len(noise)), Denoiser(base)
    with torch.no_grad():
        encoded = encode_prompts(base, base.tokenizers, [prompt] * len(noise))
    conditions = {
        t: ended(encoded, rows.to(base.device)) for t, rows in zip(times, learned.vectors, strict=True)
    }
    if reference is None:

        def rule(latents: Tensor, t: int) -> Tensor:
            return guided_noise(denoiser, latents, t, conditions[t], null, guidance)

        return ruled_sample(base, noise, rule, len(times))
    moved = fit_placement(reference.mask, reference.target)
    with torch.no_grad():
        latents = encode_images(base, placed(reference.image, moved))
    region = (to_latent_grid(placed(reference.mask, moved), latents.shape[-2:]) > 0.5).float().to(base.device)
    pasted = Pasted(
        base, inverted_path(base, latents, encoded[:1], len(times)), region, times, conditions, null, guidance,
        reference.start, reference.end, reference.rounds,
    )  # fmt: skip
    return ruled_sample(base, noise, pasted.rule, len(times), pasted.overwrite)
