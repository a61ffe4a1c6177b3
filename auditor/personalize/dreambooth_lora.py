"""DreamBooth with low-rank adapters (Ruiz et al., CVPR 2023, arXiv 2208.12242; Hu et al., ICLR 2022, arXiv 2106.09685).

``L = ||eps - eps_th(z_t, t, "a picture of sks person")||^2 + w ||eps - eps_th(z'_t, t, "a picture of a person")||^2``,
where ``z'`` are the frozen model's own pictures of the class (prior preservation).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from auditor.contracts import Progress
from auditor.errors import UsageError
from auditor.personalize.images import load_images
from auditor.personalize.lora import ATTENTION, TEXT_ATTENTION, injected, lora_state, save_diffusers_lora
from auditor.pipeline.components import Components
from auditor.pipeline.conditioning import Conditioning, encode_images, encode_prompts
from auditor.pipeline.denoiser import Denoiser
from auditor.pipeline.sampling import ddim_sample, seeded_noise
from auditor.registry import METHODS

__all__ = ["DreamBoothLora", "TrainedLora", "train_dreambooth_lora"]


@dataclass(frozen=True)
class DreamBoothLora:
    """Recipe.

    Attributes:
        prompt: instance prompt with the identifier, for example "a picture of sks person".
        class_prompt: prompt of the prior; empty for no prior preservation.
        class_images: how many pictures the frozen model draws for the prior.
        prior_weight: w.
        rank: r of every low-rank layer.
        alpha: scale numerator; 0 means rank.
        steps: optimiser steps.
        batch: instance rows a step (as many prior rows beside them).
        lr: AdamW learning rate, constant after ten steps of warm-up.
        train_text_encoder: also put layers on the text encoder, at a fifth of the learning rate.
        seed: of every draw.
    """

    prompt: str = "a picture of sks"
    class_prompt: str = ""
    class_images: int = 12
    prior_weight: float = 1.0
    rank: int = 4
    alpha: float = 0.0
    steps: int = 120
    batch: int = 4
    lr: float = 1e-3
    train_text_encoder: bool = False
    seed: int = 0


@dataclass(frozen=True)
class TrainedLora:
    """Factors as PEFT names them, per component, and the mean loss of the last tenth of the steps."""

    unet: dict[str, Tensor]
    text_encoder: dict[str, Tensor]
    loss: float


def train_dreambooth_lora(
    base: Components,
    images: Tensor,
    params: DreamBoothLora,
    progress: Progress,
    prompts: list[str] | None = None,
    refine: Callable[[Components], None] | None = None,
) -> TrainedLora:
    """Trains the adapter; the base is as before afterwards, also after an exception.

    Args:
        base: a loaded base.
        images: (N, 3, H, W) in [-1, 1].
        params: the recipe.
        progress: told of every step.
        prompts: one prompt an image; ``params.prompt`` for all by default.
        refine: called with the layers still in place, before they are read out, to train them further.

    Raises:
        UsageError: prompts and images differ in number, or a parameter is out of range.
    """
    _check(params)
    if prompts is not None and len(prompts) != len(images):
        raise UsageError(f"{len(images)} images need as many prompts, not {len(prompts)}")
    instance = prompts or [params.prompt] * len(images)
    with torch.no_grad():
        latents = encode_images(base, images)
    if params.class_prompt and params.prior_weight:
        prior = class_latents(base, params.class_prompt, params.class_images, params.seed, latents.shape[1:])
    else:
        prior = latents[:0]
    alpha = params.alpha or params.rank
    with ExitStack() as stack:
        unet = stack.enter_context(injected(base.unet, params.rank, alpha, ATTENTION, params.seed))
        groups: list[dict[str, Any]] = [{"params": unet, "lr": params.lr}]
        text = base.modules["text_encoder"]
        if params.train_text_encoder:
            layers = stack.enter_context(injected(text, params.rank, alpha, TEXT_ATTENTION, params.seed + 1))
            groups.append({"params": layers, "lr": params.lr / 5})
        loss = _optimise(base, latents, instance, prior, params, groups, progress)
        if refine is not None:
            refine(base)
        return TrainedLora(lora_state(base.unet), lora_state(text) if params.train_text_encoder else {}, loss)


def class_latents(base: Components, prompt: str, count: int, seed: int, shape: torch.Size) -> Tensor:
    """The frozen model's own pictures of the class as latents (count, C, h, w): DDIM, 15 steps, guidance 3."""
    condition = encode_prompts(base, base.tokenizers, [prompt] * count)
    null = encode_prompts(base, base.tokenizers, [""] * count)
    noise = seeded_noise(shape, [seed * 1009 + i for i in range(count)]).to(base.device)
    with torch.no_grad():
        return ddim_sample(Denoiser(base), noise, condition, null, 15, 3.0)


def _optimise(
    base: Components,
    latents: Tensor,
    prompts: list[str],
    prior: Tensor,
    params: DreamBoothLora,
    groups: list[dict[str, Any]],
    progress: Progress,
) -> float:
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=1e-4)
    rates = [group["lr"] for group in optimizer.param_groups]
    generator = torch.Generator().manual_seed(params.seed)
    frozen = None if params.train_text_encoder else _states(base, prompts, params.class_prompt)
    kept: list[float] = []
    for step in range(params.steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * min(1.0, (step + 1) / 10)
        rows = torch.randint(len(latents), (params.batch,), generator=generator)
        states = frozen if frozen is not None else _states(base, prompts, params.class_prompt)
        clean, condition = latents[rows], states[0][rows]
        weight = torch.ones(len(rows))
        if len(prior):
            others = torch.randint(len(prior), (params.batch,), generator=generator)
            clean = torch.cat([clean, prior[others]])
            condition = Conditioning.join([condition, states[1][torch.zeros(len(others), dtype=torch.long)]])
            weight = torch.cat([weight, torch.full((len(others),), params.prior_weight)])
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        t = torch.randint(len(base.schedule), (len(clean),), generator=generator).to(clean.device)
        noisy = base.schedule.alpha(t) * clean + base.schedule.sigma(t) * noise
        error = Denoiser(base).predict(noisy, t, condition).epsilon - noise
        loss = (weight.to(error.device) * error.square().mean((1, 2, 3))).sum() / params.batch
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], 1.0)
        optimizer.step()
        if step >= int(params.steps * 0.9):
            kept.append(float(loss.detach()))
        progress(step + 1, params.steps, "training")
    return sum(kept) / len(kept)


def _check(params: DreamBoothLora) -> None:
    for name in ("rank", "steps", "batch", "lr", "class_images"):
        if getattr(params, name) <= 0:
            raise UsageError(f"{name} must be above zero, not {getattr(params, name)}")
    if params.alpha < 0 or params.prior_weight < 0:
        raise UsageError("alpha and prior weight must not be below zero")


def _states(base: Components, prompts: list[str], class_prompt: str) -> tuple[Conditioning, Conditioning]:
    return encode_prompts(base, base.tokenizers, prompts), encode_prompts(
        base, base.tokenizers, [class_prompt]
    )


class _Method:
    id = "dreambooth-lora"
    goal = "teach the model one subject from a few pictures, as a small adapter"
    refs = ("arXiv:2208.12242", "arXiv:2106.09685")
    params = DreamBoothLora

    def fit(
        self, base: Components, data: Path, params: DreamBoothLora, out: Path, progress: Progress
    ) -> Path:
        """Trains on a folder of pictures; writes the adapter and ``provenance.json`` into ``out``.

        Raises:
            UsageError: unusable pictures, an empty prompt, or a parameter out of range.
            OutputError: ``out`` holds an adapter already, or cannot be written.
        """
        if not params.prompt.strip():
            raise UsageError(
                "the instance prompt is empty; name the subject, for example --prompt 'a picture of sks person'"
            )
        _check(params)
        images = load_images(data, base.image_size)
        trained = train_dreambooth_lora(base, images, params, progress)
        alpha = params.alpha or params.rank
        path = save_diffusers_lora(
            out,
            trained.unet,
            trained.text_encoder,
            params.rank,
            alpha,
            {"modelspec.trigger_phrase": params.prompt},
        )
        sidecar = {
            "method": self.id,
            "params": asdict(params),
            "base": {"ref": base.ref, "revision": base.revision, "sha256": base.sha256},
            "images": [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in images],
            "loss": trained.loss,
            "adapter_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        (out / "provenance.json").write_text(json.dumps(sidecar, indent=2, sort_keys=True) + "\n", "utf-8")
        return path


METHODS.add("dreambooth-lora", _Method())
