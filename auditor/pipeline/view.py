"""A model with or without the parts of a subject: everything that probes ask of it, with the right weights in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from auditor.pipeline.components import Components
from auditor.pipeline.conditioning import (
    Conditioning,
    decode_latents,
    encode_context,
    encode_images,
    encode_prompts,
)
from auditor.pipeline.denoiser import Denoiser
from auditor.pipeline.samplers import draw_latents, sampler
from auditor.pipeline.sampling import scheduler_sample, seeded_noise
from auditor.pipeline.schedule import NoiseSchedule, Prediction

if TYPE_CHECKING:
    from auditor.pipeline.subject import Subject

__all__ = ["Name", "View", "ViewDenoiser", "token_names"]

Name = Literal["base", "tuned"]
# Rows are evaluated as many at once as have this many values: 16 at 64x64 latents, four at 128x128.
_LATENT_VALUES = 1 << 16
_DECODED_VALUES = 1 << 14


class ViewDenoiser(Denoiser):
    """A denoiser that evaluates with its view's weights in place, without gradients, in as many rows as fit."""

    def __init__(self, subject: Subject, name: Name) -> None:
        super().__init__(subject.components)
        self._subject, self._name = subject, name

    @torch.no_grad()
    def predict(self, latents: Tensor, t: Tensor, condition: Conditioning) -> Prediction:
        """See :meth:`Denoiser.predict`."""
        rows = _rows_that_fit(_LATENT_VALUES, latents)
        with self._subject.active(self._name):
            if len(latents) <= rows:
                return super().predict(latents, t, condition)
            predict = super().predict
            parts = [slice(start, start + rows) for start in range(0, len(latents), rows)]
            return Prediction.join([predict(latents[p], t[p], condition[p]) for p in parts])


class View:
    """The model with or without the parts. All methods put its weights in place and leave nothing behind."""

    def __init__(self, subject: Subject, name: Name) -> None:
        self.name: Name = name
        self.denoiser = ViewDenoiser(subject, name)
        self._subject = subject
        self._cache: dict[str, Conditioning] = {}
        self.tokenizers = subject.components.tokenizers if name == "base" else subject.tuned_tokenizers

    @property
    def components(self) -> Components:
        """The model whose weights the view switches."""
        return self._subject.components

    @property
    def schedule(self) -> NoiseSchedule:
        """The training noise schedule."""
        return self._subject.components.schedule

    def encode_prompt(self, prompts: Sequence[str]) -> Conditioning:
        """Prompts to conditioning, one row each; repeated prompts are encoded once in the subject's life."""
        return self._encoded(prompts).ended(self._endings)

    def encode_null(self, count: int) -> Conditioning:
        """What guidance runs against, ``count`` rows: the empty prompt, or zeros where the base wants those."""
        null = self._encoded([""] * count).unended(self._endings)
        return null.zeros() if self.components.zero_null else null

    @property
    def _endings(self) -> Tensor | None:
        return None if self.name == "base" else self._subject.changes.endings

    def _encoded(self, prompts: Sequence[str]) -> Conditioning:
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._cache]
        if new:
            with self._subject.active(self.name), torch.no_grad():
                rows = encode_prompts(
                    self._subject.components, self.tokenizers, [self._expand(p) for p in new]
                )
            self._cache.update({prompt: rows[i : i + 1] for i, prompt in enumerate(new)})
        return Conditioning.join([self._cache[prompt] for prompt in prompts])

    def forget(self) -> None:
        """Lets go of what was encoded: to be called when the view's weights were changed."""
        self._cache.clear()

    def text_states(self, ids: Tensor, encoders: Sequence[str] = ()) -> Conditioning:
        """What rows of ids (B, L) condition the denoiser by, the same ids for every text encoder.

        Args:
            ids: int64.
            encoders: text encoders that share a tokenizer; all by default.

        Returns:
            float32 on the CPU; see :func:`auditor.pipeline.conditioning.encode_context`.
        """
        with self._subject.active(self.name), torch.no_grad():
            chosen = encoders or tuple(self.components.text_encoders)
            return encode_context(self.components, ids, chosen).cpu()

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to scaled latents, the posterior's mean, float32."""
        with self._subject.active(self.name):
            return encode_images(self.components, images)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents to images (B, 3, H, W) in [-1, 1], float32 on the CPU."""
        with self._subject.active(self.name):
            return decode_latents(self.components, latents, _rows_that_fit(_DECODED_VALUES, latents))

    def sample(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        steps: int = 25,
        guidance: float = 3.0,
        size: int | None = None,
        scheduler: Any = None,
        batch: int = 32,
        true_guidance: float = 1.0,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Draws one image for each prompt and seed.

        Args:
            prompts: B prompts.
            seeds: B seeds; the same seed starts from the same noise in both views and in any batch.
            steps: sampler steps.
            guidance: classifier-free guidance weight, 1 for none; what a guidance-distilled base is told instead.
            size: pixels of a side; the base's own by default.
            scheduler: any diffusers scheduler; by default deterministic DDIM, or Euler for flow matching.
            batch: rows evaluated at once.
            true_guidance: classifier-free guidance weight on top of a guidance-distilled base, 1 for none.
            noise: where to start, (B, C, h, w) of unit variance, in place of the seeds' noise and ``size``.

        Returns:
            Images (B, 3, H, W) in [-1, 1], float32 on the CPU.
        """
        drawn = []
        for first in range(0, len(prompts), batch):
            rows = slice(first, first + batch)
            condition, null, weight = self._guided(prompts[rows], guidance, true_guidance)
            start = seeded_noise(self.latent_shape(size), seeds[rows]) if noise is None else noise[rows]
            start = start.to(self._subject.components.device)
            with self._subject.active(self.name):
                if scheduler is None:
                    latents = draw_latents(self.denoiser, start, condition, null, steps, weight)
                else:
                    # Steps that draw noise do so from each image's own seed, whatever the batch.
                    draws = [torch.Generator().manual_seed(seed + 1) for seed in seeds[rows]]
                    latents = scheduler_sample(
                        self.denoiser, scheduler, start, condition, null, steps, weight, draws
                    )
                drawn.append(self.decode(latents))
        return torch.cat(drawn)

    def invert(
        self,
        images: Tensor,
        prompts: Sequence[str],
        *,
        steps: int = 25,
        guidance: float = 1.0,
        method: str | None = None,
        refine: int = 0,
    ) -> Tensor:
        """Inverts images (B, 3, H, W) in [-1, 1] to noise latents (B, C, h, w), deterministically.

        Args:
            images: as drawn, or any others.
            prompts: B prompts; empty ones where they are not known.
            steps: sampler steps.
            guidance: as in :meth:`sample`.
            method: the sampler that is inverted: ``ddim``, ``dpmpp`` or ``euler``; the base's default if None.
            refine: fixed-point iterations of each step beyond the plain inverse, for the inverse of a known sampler.

        Raises:
            UsageError: no such method, or not for a base of this kind.
        """
        return self.invert_latents(
            self.encode_image(images), prompts, steps=steps, guidance=guidance, method=method, refine=refine
        )

    def invert_latents(
        self,
        clean: Tensor,
        prompts: Sequence[str],
        *,
        steps: int = 25,
        guidance: float = 1.0,
        method: str | None = None,
        refine: int = 0,
    ) -> Tensor:
        """:meth:`invert` from scaled latents (B, C, h, w) on."""
        chosen = sampler(self.denoiser, method)
        condition, null, weight = self._guided(prompts, guidance, 1.0)
        with self._subject.active(self.name):
            return chosen.invert(self.denoiser, clean, condition, null, steps, weight, refine)

    def latent_shape(self, size: int | None = None) -> tuple[int, int, int]:
        """(C, h, w) of the latents for images of ``size`` pixels."""
        return self.components.kind.latent_shape(self.components, size)

    def _guided(
        self, prompts: Sequence[str], guidance: float, true_guidance: float
    ) -> tuple[Conditioning, Conditioning, float]:
        """The prompts and what they are guided against, and the weight of classifier-free guidance."""
        condition, null = self.encode_prompt(prompts), self.encode_null(len(prompts))
        if self.components.kind.guidance_distilled:
            return condition.told(guidance), null.told(guidance), true_guidance
        return condition, null, guidance

    def _expand(self, prompt: str) -> str:
        # A token with several vectors stands for as many tokens in a row (textual inversion's convention).
        if self.name == "tuned":
            for token, count in self._subject.vectors_per_token.items():
                if count > 1 and token in prompt:
                    prompt = prompt.replace(token, " ".join(token_names(token, count)))
        return prompt


def token_names(token: str, count: int) -> list[str]:
    """What a word of several vectors is called in a vocabulary, one name a vector."""
    return [token, *(f"{token}_{i}" for i in range(1, count))]


def _rows_that_fit(values: int, latents: Tensor) -> int:
    return max(1, values // (latents.shape[-1] * latents.shape[-2]))
