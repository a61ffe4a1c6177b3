"""Many DreamBooth-LoRA adapters in one pass: the same adapters as one at a time, to rounding.

The frozen model is evaluated once on the rows of all adapters; only low-rank layers tell rows apart. Every adapter
keeps its own seed, learning rate, clipping and number of steps, and leaves the batch when its steps are done.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from auditor.contracts import Progress
from auditor.errors import UsageError
from auditor.personalize.blocks.denoising import Drawn, denoising_error, draw, mean_square
from auditor.personalize.blocks.examples import class_latents
from auditor.personalize.blocks.layers.adapted import adapted, linear_layers
from auditor.personalize.blocks.layers.batched import FactorBank
from auditor.personalize.blocks.optimise import Group, Optimisation, Step, TrainingLog, optimise, step_of
from auditor.personalize.dreambooth_lora import DreamBoothLora, TrainedLora
from auditor.personalize.lora import ATTENTION, TEXT_ATTENTION, clip_encoders, injected, lora_state
from auditor.pipeline.components import Components
from auditor.pipeline.conditioning import Conditioning, encode_ids, encode_images, encode_prompts, token_ids

__all__ = ["Job", "shape_of", "train_many"]

_DOWN = ".lora_A.weight"


@dataclass(frozen=True)
class Job:
    """One adapter to train: pictures (N, 3, H, W) in [-1, 1], the recipe, and prompts where it is not one for all."""

    images: Tensor
    params: DreamBoothLora
    prompts: tuple[str, ...] = ()


def shape_of(params: DreamBoothLora) -> tuple[int, int, bool, bool]:
    """What adapters of one pass have to share: rank, batch, whether there is a prior, and a trained text encoder."""
    return params.rank, params.batch, bool(params.class_prompt and params.prior_weight), params.train_text_encoder


def train_many(base: Components, jobs: Sequence[Job], progress: Progress) -> list[TrainedLora]:
    """Trains all adapters at once; the base is as before afterwards, also after an exception.

    Args:
        base: a loaded base.
        jobs: recipes of one :func:`shape_of`; all else may differ.
        progress: told of every step of the longest recipe.

    Returns:
        What :func:`auditor.personalize.dreambooth_lora.train_dreambooth_lora` would, in the order of the jobs.

    Raises:
        UsageError: no jobs, recipes of several shapes, prompts that differ in number from the images, or a number of
            a recipe that is out of range.
    """
    _check(jobs)
    recipes = [job.params for job in jobs]
    batch = _Batch(base, jobs)
    with ExitStack() as stack:
        banks = {"unet": _put_in(stack, base.denoiser_model, jobs, ATTENTION, 0)}
        if recipes[0].train_text_encoder:
            for i, (name, text) in enumerate(clip_encoders(base).items(), 1):
                banks[name] = _put_in(stack, text, jobs, TEXT_ATTENTION, i)
        batch.banks = list(banks.values())
        groups = [
            Group(f"{k}.{component}", [bank.parameters[k]], _lr(recipe, component), model=str(k))
            for component, bank in banks.items()
            for k, recipe in enumerate(recipes)
        ]
        optimise(groups, batch.loss_of, Optimisation(max(r.steps for r in recipes), recipes[0].lr), progress)
        states = [{component: _state(bank, k) for component, bank in banks.items()} for k in range(len(jobs))]
    return [
        TrainedLora(state["unet"], state.get("text_encoder", {}), log.final, state.get("text_encoder_2", {}))
        for state, log in zip(states, batch.logs, strict=True)
    ]


class _Batch:
    """The rows of all adapters that still have steps to go, side by side: instance rows, then prior rows, of each."""

    def __init__(self, base: Components, jobs: Sequence[Job]) -> None:
        self._base, self._jobs = base, jobs
        self.banks: Sequence[FactorBank] = ()
        self.logs = [TrainingLog() for _ in jobs]
        self._prompts = [job.prompts or (job.params.prompt,) * len(job.images) for job in jobs]
        with torch.no_grad():
            self._latents = [encode_images(base, job.images) for job in jobs]
            self._prior = [self._prior_of(k) for k in range(len(jobs))]
            frozen = not jobs[0].params.train_text_encoder
            self._frozen = [self._encoded(k) for k in range(len(jobs))] if frozen else None

    def loss_of(self, step: Step) -> Tensor:
        """The sum over adapters: their parameters are apart, so that each gets the gradient of its own loss."""
        active = [k for k, job in enumerate(self._jobs) if step.index < job.params.steps]
        for bank in self.banks:
            bank.lay_out(active)
        drawn = [self._draw(k, step.index) for k in active]
        condition = Conditioning.join(self._conditions(active, [parts[0].rows for parts in drawn]))
        joined = Drawn.join([part for parts in drawn for part in parts])
        errors = mean_square(denoising_error(self._base, joined, condition)).chunk(len(active))
        losses = []
        for k, error in zip(active, errors, strict=True):
            recipe = self._jobs[k].params
            weight = torch.ones(len(error), device=error.device)
            weight[recipe.batch :] = recipe.prior_weight
            losses.append((weight * error).sum() / recipe.batch)
        each = torch.stack(losses)
        for k, loss in zip(active, each.detach().tolist(), strict=True):
            self.logs[k].losses.append(loss)
        return each.sum()

    def _draw(self, k: int, index: int) -> list[Drawn]:
        recipe, generator = self._jobs[k].params, step_of(self._jobs[k].params.seed, index).generator
        sources = [self._latents[k], *([self._prior[k]] if len(self._prior[k]) else [])]
        return [draw(self._base, latents, recipe.batch, generator) for latents in sources]

    def _conditions(self, active: Sequence[int], rows: Sequence[Tensor]) -> list[Conditioning]:
        """For each adapter its instance prompts, and its class prompt as often if it has a prior."""
        encoded = self._frozen or self._trained(active, rows)
        found = []
        for place, (k, chosen) in enumerate(zip(active, rows, strict=True)):
            instance, prior = encoded[k if self._frozen else place]
            found.append(instance[chosen] if self._frozen else instance)
            if len(self._prior[k]):
                found.append(prior[torch.zeros(len(chosen), dtype=torch.long)])
        return found

    def _trained(self, active: Sequence[int], rows: Sequence[Tensor]) -> list[tuple[Conditioning, Conditioning]]:
        """All prompts through the text encoder in one batch, as many of each adapter, so that layers can tell them."""
        texts = [
            text
            for k, chosen in zip(active, rows, strict=True)
            for text in (*(self._prompts[k][int(i)] for i in chosen), self._jobs[k].params.class_prompt)
        ]
        tokenizers = self._base.tokenizers
        ids = {name: token_ids(tokenizers[name], texts) for name in self._base.text_encoders}
        all_rows, each = encode_ids(self._base, ids), len(rows[0]) + 1
        starts = range(0, len(texts), each)
        return [(all_rows[i : i + each - 1], all_rows[i + each - 1 : i + each]) for i in starts]

    def _encoded(self, k: int) -> tuple[Conditioning, Conditioning]:
        base, tokenizers = self._base, self._base.tokenizers
        prior = encode_prompts(base, tokenizers, [self._jobs[k].params.class_prompt])
        return encode_prompts(base, tokenizers, self._prompts[k]), prior

    def _prior_of(self, k: int) -> Tensor:
        recipe, latents = self._jobs[k].params, self._latents[k]
        if not shape_of(recipe)[2]:
            return latents[:0]
        return class_latents(self._base, recipe.class_prompt, recipe.class_images, recipe.seed, latents.shape[1:])


def _put_in(
    stack: ExitStack, model: nn.Module, jobs: Sequence[Job], targets: tuple[str, ...], offset: int
) -> FactorBank:
    starts = []
    for recipe in (job.params for job in jobs):
        # PEFT's own draw, so that an adapter begins where it would begin alone.
        with injected(model, recipe.rank, recipe.alpha or recipe.rank, targets, recipe.seed + offset):
            state = lora_state(model)
        starts.append({key.removesuffix(_DOWN): down for key, down in state.items() if key.endswith(_DOWN)})
    scales = [(job.params.alpha or job.params.rank) / job.params.rank for job in jobs]

    outputs = {path: layer.out_features for path, layer in linear_layers(model, targets).items()}
    bank = FactorBank(starts, outputs, scales)
    stack.enter_context(adapted(model, targets, lambda path, _: bank.layers[path]))
    return bank


def _state(bank: FactorBank, k: int) -> dict[str, Tensor]:
    """Factors of one adapter as PEFT names them."""
    named: dict[str, Tensor] = {}
    for path, (down, up) in bank.factors(k).items():
        named |= {f"{path}{_DOWN}": down, f"{path}.lora_B.weight": up}
    return named


def _lr(recipe: DreamBoothLora, component: str) -> float:
    return recipe.lr / 5 if component.startswith("text_encoder") else recipe.lr


def _check(jobs: Sequence[Job]) -> None:
    if not jobs:
        raise UsageError("there is no adapter to train")
    if len({shape_of(job.params) for job in jobs}) > 1:
        raise UsageError("adapters of one pass have to share rank, batch, prior or none, and text encoder or none")
    for job in jobs:
        if job.prompts and len(job.prompts) != len(job.images):
            raise UsageError(f"{len(job.images)} images need as many prompts, not {len(job.prompts)}")
        for name in ("rank", "steps", "batch", "lr", "class_images"):
            if getattr(job.params, name) <= 0:
                raise UsageError(f"{name} must be above zero, not {getattr(job.params, name)}")
