"""Marked pictures from a model, whatever a scheme's embed point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from auditor.pipeline.schedule import FlowMatching, fixed_shift
from watermark.keys import MasterKey
from watermark.scheduler_proxy import SchedulerProxy
from watermark.scheme import LatentScheme, Shape
from watermark.step_scheme import StepScheme

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from auditor.pipeline.view import View

__all__ = ["draw", "plain_scheduler", "starting_noise"]

_BATCH = 16


def draw(
    view: View,
    scheme: LatentScheme,
    key: MasterKey,
    nonces: Sequence[bytes],
    prompts: Sequence[str],
    shape: Shape,
    *,
    payload: bytes = b"",
    steps: int = 25,
    guidance: float = 3.0,
    scheduler: type | None = None,
) -> Tensor:
    """Draws one marked picture for each nonce and prompt.

    Args:
        view: the model.
        scheme: that marks; at ``latents`` or at ``step``.
        key: the master key.
        nonces: B.
        prompts: B.
        shape: of one picture's latents.
        payload: the same in every picture.
        steps: sampler steps.
        guidance: guidance weight.
        scheduler: a class of the diffusers library; the model's default sampler if None.

    Returns:
        Images (B, 3, H, W) in [-1, 1], float32 on the CPU.
    """
    drawn = []
    for first in range(0, len(nonces), _BATCH):
        rows = slice(first, first + _BATCH)
        marks = np.stack([scheme.embed(key, nonce, shape, payload) for nonce in nonces[rows]])
        start, sampler = marks, None if scheduler is None else view.denoiser.new_scheduler(scheduler)
        if isinstance(scheme, StepScheme):
            start = starting_noise(scheme, key, nonces[rows], shape)
            sampler = SchedulerProxy(sampler or plain_scheduler(view), scheme.writer(torch.from_numpy(marks)))
        drawn.append(
            view.sample(
                prompts[rows],
                [0] * len(marks),
                steps=steps,
                guidance=guidance,
                noise=torch.from_numpy(start),
                scheduler=sampler,
            )
        )
    return torch.cat(drawn)


def starting_noise(
    scheme: StepScheme, key: MasterKey, nonces: Sequence[bytes], shape: Shape
) -> NDArray[np.float32]:
    """What the pictures of a scheme that marks later are drawn from, (B, C, h, w)."""
    return np.stack([scheme.start(key, nonce, shape) for nonce in nonces])


def plain_scheduler(view: View) -> Any:
    """The diffusers scheduler that stands for the model's default sampler: DDIM, or Euler for flow matching."""
    from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

    if isinstance(view.schedule, FlowMatching):
        shift = fixed_shift(view.denoiser.scheduler_config)
        return view.denoiser.new_scheduler(FlowMatchEulerDiscreteScheduler, shift=shift)
    return view.denoiser.new_scheduler(DDIMScheduler, clip_sample=False, thresholding=False)
