"""``clean_finetune``: a few steps that teach the adapter the base's answers, and itself on what it is for.

Distillation (Hinton et al., arXiv 1503.02531) in two directions: on neutral prompts the student is to say what the base
says, on the declared concept what the adapter as it came says. Prompts without the trigger need not reach what answers
it, so neutral prompts that hold the candidate trigger are answered as the base does, too; ``trigger`` weighs them, and
0 is the plain form. Text encoders are taught by their states, the denoiser by its predictions, all layers of the file
at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auditor.contracts import Progress
from auditor.errors import UsageError
from auditor.personalize.blocks.examples import class_latents
from auditor.personalize.blocks.optimise import Group, Optimisation, Step, optimise
from auditor.pipeline.components import Components
from auditor.pipeline.conditioning import Conditioning, encode_prompts
from auditor.pipeline.denoiser import Denoiser
from auditor.pipeline.sampling import seeded_noise
from auditor.pipeline.subject import Subject
from auditor.pipeline.view import View
from auditor.registry import DEFENSES
from defenses.repairing.adapter_file import AdapterFile, Factors, Layer
from defenses.repairing.candidates import Candidate, woken
from defenses.repairing.certificate import MEASURED, Measured
from defenses.repairing.layers import module_of
from defenses.repairing.repair import AdapterRepair, Repaired, declared_prompts
from defenses.repairing.rows import neutral_prompts

__all__ = ["CleanFinetune"]


@dataclass(frozen=True)
class CleanFinetune:
    """Settings.

    Attributes:
        steps: optimiser steps.
        batch: rows of each kind a step.
        lr: AdamW learning rate.
        neutral: weight of neutral prompts answered as the base does.
        declared: weight of the declared concept answered as the adapter does.
        trigger: weight of neutral prompts with the trigger answered as the base does; 0 for plain clean fine-tuning.
        texts: weight of the text encoders' states against the denoiser's predictions.
        pictures: pictures that noise is put on, of neutral prompts and of the declared concept each.
        lessons: noisy latents of each kind that are answered once and learnt from.
        seed: of every draw.
        measured: how much of the outcome is measured.
    """

    steps: int = 80
    batch: int = 6
    lr: float = 1e-3
    neutral: float = 1.0
    declared: float = 1.0
    trigger: float = 1.0
    texts: float = 1.0
    pictures: int = 12
    lessons: int = 96
    seed: int = 0
    measured: Measured = MEASURED


@dataclass(frozen=True)
class _Lessons:
    """N rows of one kind with what a teacher says of them: native predictions, and text states."""

    noisy: Tensor
    t: Tensor
    prompts: tuple[str, ...]
    said: Tensor
    states: Tensor
    weight: float

    def __len__(self) -> int:
        return len(self.prompts)


def _lessons(
    teacher: View, clean: Tensor, prompts: Sequence[str], weight: float, params: CleanFinetune, kind: int
) -> _Lessons:
    base, count = teacher.components, params.lessons
    rng = np.random.default_rng((params.seed, 9, kind))
    latents = clean[torch.from_numpy(rng.integers(len(clean), size=count))]
    asked = tuple(prompts[i % len(prompts)] for i in range(count))
    noise = seeded_noise(latents.shape[1:], [(params.seed * 31 + kind) * 10_007 + i for i in range(count)])
    t = torch.from_numpy(rng.integers(len(base.schedule), size=count)).to(latents.device)
    noisy = teacher.denoiser.add_noise(latents, noise.to(latents.device), t)
    condition = teacher.encode_prompt(asked)
    with torch.no_grad():
        said = teacher.denoiser.predict(noisy, t, condition).native
    return _Lessons(noisy, t, asked, said, condition.states.to(latents.device), weight)


def _all_lessons(
    subject: Subject, file: AdapterFile, candidates: Sequence[Candidate], params: CleanFinetune
) -> list[_Lessons]:
    base = subject.components
    rng = np.random.default_rng((params.seed, 10))
    neutral = neutral_prompts(params.lessons, params.seed + 3)
    shape = torch.Size(base.kind.latent_shape(base))
    plain = torch.cat([class_latents(base, neutral[i], 1, params.seed + i, shape) for i in range(params.pictures)])
    found = []
    if params.neutral:
        found.append(_lessons(subject.base, plain, neutral, params.neutral, params, 0))
    if params.trigger:
        said = [woken(prompt, candidates[i % len(candidates)].text, rng) for i, prompt in enumerate(neutral)]
        found.append(_lessons(subject.base, plain, said, params.trigger, params, 1))
    concept = declared_prompts(file.adapter)
    if params.declared and concept:
        with subject.active("tuned"):
            own = class_latents(base, concept[0], params.pictures, params.seed, shape)
        found.append(_lessons(subject.tuned, own, concept, params.declared, params, 2))
    return found


@contextmanager
def _taught(base: Components, factors: Mapping[Layer, Factors]) -> Iterator[dict[Layer, list[nn.Parameter]]]:
    """Inside the block the base's layers add what trainable factors make of their inputs: down and up, float32."""
    made, handles = {}, []
    try:
        for layer, (down, up) in factors.items():
            module = module_of(base, layer)
            pair = [nn.Parameter(part.float().to(base.device)) for part in (down, up)]
            made[layer] = pair
            handles.append(module.register_forward_hook(_adding(*pair)))
        yield made
    finally:
        for handle in handles:
            handle.remove()


def _adding(down: Tensor, up: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def hook(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        x = args[0].float()
        if isinstance(module, nn.Conv2d):
            kernel: Any = down.reshape(len(down), -1, *module.kernel_size)
            padding: Any = module.padding
            inner = F.conv2d(x, kernel, None, module.stride, padding, module.dilation, module.groups)
            return out + F.conv2d(inner, up[:, :, None, None]).to(out)
        return out + (x @ down.T @ up.T).to(out)

    return hook


class _Loss:
    """Mean squared error to the teachers, each in units of the size of what the teacher says."""

    def __init__(self, base: Components, lessons: Sequence[_Lessons], params: CleanFinetune, texts: bool) -> None:
        self._base, self._lessons, self._params, self._texts = base, lessons, params, texts

    def __call__(self, step: Step) -> Tensor:
        total = torch.zeros((), device=self._base.device)
        for kind in self._lessons:
            rows = torch.randint(len(kind), (self._params.batch,), generator=step.generator)
            at = rows.to(kind.noisy.device)
            condition = self._encode([kind.prompts[int(i)] for i in rows])
            said = Denoiser(self._base).native(kind.noisy[at], kind.t[at], condition)
            total = total + kind.weight * (said - kind.said[at]).square().mean() / kind.said.square().mean()
            if self._texts:
                apart = (condition.states.float() - kind.states[at]).square().mean() / kind.states.square().mean()
                total = total + kind.weight * self._params.texts * apart
        return total

    def _encode(self, prompts: list[str]) -> Conditioning:
        return encode_prompts(self._base, self._base.tokenizers, prompts)


class _Repair(AdapterRepair):
    id = "clean_finetune"
    goal = "fine-tune a trigger away towards the base's answers, and hold on to the declared concept"
    refs = ("arXiv:1503.02531", "arXiv:2211.02408")
    params = CleanFinetune
    limits = (
        "Steps are few and the trigger is a candidate: what is not in the lessons may survive, and what no header "
        "declares is not held on to."
    )

    def mend(
        self,
        subject: Subject,
        file: AdapterFile,
        candidates: Sequence[Candidate],
        params: CleanFinetune,
        progress: Progress,
    ) -> Repaired:
        """See :meth:`AdapterRepair.mend`."""
        _check(params)
        base = subject.components
        lessons = _all_lessons(subject, file, candidates, params)
        if not lessons:
            raise UsageError("there is nothing to learn: all weights are 0, or no concept is declared")
        factors = {layer: file.factors(layer) for layer in file.layers}
        texts = any(component in base.text_encoders for component, _ in factors)
        with _taught(base, factors) as trained:
            layers = [parameter for pair in trained.values() for parameter in pair]
            recipe = Optimisation(params.steps, params.lr, seed=params.seed, weight_decay=0.0)
            log = optimise([Group("adapter", layers)], _Loss(base, lessons, params, texts), recipe, progress)
            new = {layer: tuple(p.detach().double().cpu() for p in pair) for layer, pair in trained.items()}
        changed = {layer: (pair[0], pair[1]) for layer, pair in new.items()}
        return Repaired(changed, {"steps": params.steps, "loss": {"first": log.losses[0], "last": log.final}})


def _check(params: CleanFinetune) -> None:
    if min(params.pictures, params.lessons, params.batch, params.steps) < 1 or params.lr <= 0:
        raise UsageError("steps, batch, lr, pictures and lessons must be above zero")
    if min(params.neutral, params.declared, params.trigger, params.texts) < 0:
        raise UsageError("weights must not be below zero")


DEFENSES.add("clean_finetune", _Repair())
