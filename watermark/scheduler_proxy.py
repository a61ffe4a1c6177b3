"""Any diffusers scheduler, with somebody who looks at each step's clean latents and noise and may change them.

A step of a sampler says of its latents ``z = alpha x + sigma e``: so much of it is picture ``x``, so much is noise
``e``. The proxy takes both apart, lets a writer change them, puts latents and prediction together again, and hands
those to the scheduler, which cannot tell them from its own. What is between the model and the scheduler is the same
for all of them, one step or several, on the variance-preserving scale or with latents that grow with the noise.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from auditor.errors import UsageError
from auditor.pipeline.schedule import FLOW_PREDICTION

__all__ = ["Moment", "SchedulerProxy", "Writer"]


@dataclass(frozen=True)
class Moment:
    """Where on its way a sampler is.

    Attributes:
        share: of the training schedule, 1 at pure noise and 0 at the picture.
        before: the share at the step before; above 1 at the first.
        alpha: coefficient of the clean latents.
        sigma: coefficient of the noise.
        last: whether no step comes after this one, so that what is done to the noise is lost.
    """

    share: float
    before: float
    alpha: float
    sigma: float
    last: bool = False


Writer = Callable[[Tensor, Tensor, Moment], "tuple[Tensor, Tensor]"]
"""From clean latents and noise (B, C, h, w), float32, as the model predicts them, to those that the step goes on with.

It returns the very tensors that it was given where it changes nothing."""


class SchedulerProxy:
    """Stands in for a scheduler: everything is the scheduler's own, but for ``step``.

    Args:
        scheduler: any diffusers scheduler whose model predicts epsilon, velocity, clean latents or a flow.
        writer: looks at every step.

    Raises:
        UsageError: the scheduler takes another prediction.
    """

    def __init__(self, scheduler: Any, writer: Writer) -> None:
        kind = str(scheduler.config.get("prediction_type", FLOW_PREDICTION))
        if kind not in _FROM:
            raise UsageError(f"marks cannot be written while sampling from a model that predicts {kind}")
        self._inner, self._writer, self._kind = scheduler, writer, kind
        self._calls, self._before = 0, 2.0
        # Callers look at the signatures to learn what a scheduler takes.
        self.step = functools.wraps(scheduler.step)(functools.partial(self._step))
        self.set_timesteps = functools.wraps(scheduler.set_timesteps)(functools.partial(self._set_timesteps))

    def __getattr__(self, name: str) -> Any:
        if name == "_inner":  # a copy that is not filled yet
            raise AttributeError(name)
        return getattr(self._inner, name)

    def _set_timesteps(self, *args: Any, **kwargs: Any) -> Any:
        self._calls, self._before = 0, 2.0
        return self._inner.set_timesteps(*args, **kwargs)

    def _step(self, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        moment, scale = self._moment(timestep)
        z = sample.float() * scale
        noise, clean = _FROM[self._kind](model_output.float(), z, moment)
        changed = self._writer(clean, noise, moment)
        if changed[0] is not clean or changed[1] is not noise:
            clean, noise = changed
            sample = ((moment.alpha * clean + moment.sigma * noise) / scale).to(sample.dtype)
            model_output = _TO[self._kind](noise, clean, moment).to(model_output.dtype)
        self._calls, self._before = self._calls + 1, moment.share
        return self._inner.step(model_output, timestep, sample, *args, **kwargs)

    def _moment(self, timestep: Any) -> tuple[Moment, float]:
        """Where the step is, and what its latents are multiplied by to have ``alpha`` and ``sigma`` as coefficients."""
        share = float(timestep) / int(self._inner.config.num_train_timesteps)
        last = self._calls + 1 >= len(self._inner.timesteps)
        sigmas = getattr(self._inner, "sigmas", None)
        if sigmas is None:
            bar = float(self._inner.alphas_cumprod[int(timestep)])
            return Moment(share, self._before, bar**0.5, (1 - bar) ** 0.5, last), 1.0
        sigma = float(sigmas[min(self._calls + int(self._inner.begin_index or 0), len(sigmas) - 1)])
        if self._kind == FLOW_PREDICTION or self._inner.config.get("use_flow_sigmas"):
            return Moment(share, self._before, 1 - sigma, sigma, last), 1.0
        alpha = (1 + sigma * sigma) ** -0.5
        grown = float(torch.as_tensor(self._inner.init_noise_sigma)) > _UNIT
        return Moment(share, self._before, alpha, sigma * alpha, last), alpha if grown else 1.0


_UNIT = 1.0 + 1e-3
"""Latents that start larger than this grow with the noise; those of the variance-preserving scale start at 1."""


def _from_epsilon(output: Tensor, z: Tensor, at: Moment) -> tuple[Tensor, Tensor]:
    return output, (z - at.sigma * output) / at.alpha


def _from_clean(output: Tensor, z: Tensor, at: Moment) -> tuple[Tensor, Tensor]:
    return (z - at.alpha * output) / at.sigma, output


def _from_velocity(output: Tensor, z: Tensor, at: Moment) -> tuple[Tensor, Tensor]:
    return at.sigma * z + at.alpha * output, at.alpha * z - at.sigma * output


def _from_flow(output: Tensor, z: Tensor, at: Moment) -> tuple[Tensor, Tensor]:
    return z + at.alpha * output, z - at.sigma * output


_FROM = {
    "epsilon": _from_epsilon,
    "sample": _from_clean,
    "v_prediction": _from_velocity,
    FLOW_PREDICTION: _from_flow,
}
"""From a prediction to noise and clean latents."""
_TO: dict[str, Callable[[Tensor, Tensor, Moment], Tensor]] = {
    "epsilon": lambda noise, clean, at: noise,
    "sample": lambda noise, clean, at: clean,
    "v_prediction": lambda noise, clean, at: at.alpha * noise - at.sigma * clean,
    FLOW_PREDICTION: lambda noise, clean, at: noise - clean,
}
"""And back."""
