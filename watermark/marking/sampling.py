"""Pictures into which a mark is injected while they are drawn."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from auditor.errors import UsageError
from watermark.drawing import plain_scheduler
from watermark.marking.steps import injected_steps
from watermark.networks.reading import injected, mark_latents
from watermark.networks.shipped import safe_sd_for
from watermark.scheduler_proxy import Moment, SchedulerProxy

if TYPE_CHECKING:
    from auditor.pipeline.components import Components
    from auditor.pipeline.view import View
    from watermark.keys import MasterKey
    from watermark.schemes.safe_sd import SafeSd

__all__ = ["draw_injected"]

_BATCH = 16


def draw_injected(
    view: View,
    scheme: SafeSd,
    key: MasterKey,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    payloads: Sequence[bytes] = (),
    size: int | None = None,
    steps: int = 25,
    guidance: float = 3.0,
    injections: int = 1,
    strength: float = 1.0,
) -> Tensor:
    """Draws one marked picture for each prompt and seed; the same seed gives ``view.sample``'s picture, and the mark.

    Args:
        view: the model.
        scheme: whose mark it is.
        key: the master key, which turns modules over and chooses the steps.
        prompts: B.
        seeds: B.
        payloads: B, or none for zeros: what a prompt's trigger picked from a vocabulary, say.
        size: pixels of a side; the model's own by default.
        steps: sampler steps.
        guidance: guidance weight.
        injections: lambda, how many steps inject.
        strength: of the injection; more of it reads better and shows more.

    Returns:
        Images (B, 3, H, W) in [-1, 1], float32 on the CPU.

    Raises:
        UsageError: another number of payloads than prompts, a strength that is not above zero, or as
            :func:`watermark.marking.steps.injected_steps`, ``SafeSd.capacity`` and
            :func:`watermark.networks.shipped.safe_sd_for`.
    """
    if payloads and len(payloads) != len(prompts):
        raise UsageError(f"{len(prompts)} prompts need as many payloads, not {len(payloads)}")
    if not strength > 0:
        raise UsageError(f"the strength of a mark must be above zero, not {strength:g}")
    shape, words = view.latent_shape(size), payloads or [b""] * len(prompts)
    scheme.capacity(shape)
    safe_sd_for(view.components, scheme.id)
    chosen = injected_steps(key, steps, injections)
    found = {
        word: mark_latents(view.components, scheme.modules(key, word), *shape[1:]) for word in dict.fromkeys(words)
    }
    drawn = []
    for first in range(0, len(prompts), _BATCH):
        rows = slice(first, first + _BATCH)
        marks = torch.cat([found[word] for word in words[rows]])
        writer = _Injecting(view.components, marks, chosen, steps, strength, scheme.id)
        sampler = SchedulerProxy(plain_scheduler(view), writer)
        drawn.append(
            view.sample(
                prompts[rows], seeds[rows], steps=steps, guidance=guidance, size=size, scheduler=sampler, batch=_BATCH
            )
        )
    return torch.cat(drawn)


class _Injecting:
    """Replaces the clean latents that a step predicts by those that carry the marks, at the chosen steps."""

    def __init__(
        self,
        components: Components,
        marks: Tensor,
        chosen: Collection[int],
        steps: int,
        strength: float,
        scheme: str,
    ) -> None:
        self._components, self._marks, self._chosen = components, marks, chosen
        self._steps, self._strength, self._scheme = steps, strength, scheme
        self._done = 0

    def __call__(self, clean: Tensor, noise: Tensor, at: Moment) -> tuple[Tensor, Tensor]:
        here, self._done = self._done, self._done + 1
        if here % self._steps not in self._chosen:
            return clean, noise
        return injected(self._components, clean, self._marks, self._strength, self._scheme), noise
