"""The subject of an audit: a base, the parts put on it, and two views over the same weights.

``base`` and ``tuned`` are switched by swapping the storage of the parameters that change, nothing else: no
second copy of the model, no arithmetic on the way back, so the base is the same bit for bit after any
number of switches, also after an exception.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Literal, Self

import torch
from torch import Tensor

from auditor.artifact.covariates import covariates_of
from auditor.artifact.identify import Identified
from auditor.contracts import Capability
from auditor.pipeline.base_weights import BaseWeights
from auditor.pipeline.components import Components
from auditor.pipeline.conditioning import (
    Conditioning,
    decode_latents,
    encode_context,
    encode_images,
    encode_prompts,
)
from auditor.pipeline.denoiser import Denoiser
from auditor.pipeline.full_model import as_adapter
from auditor.pipeline.parts import Changes, changes_of
from auditor.pipeline.samplers import draw_latents, sampler
from auditor.pipeline.sampling import scheduler_sample, seeded_noise
from auditor.pipeline.schedule import NoiseSchedule, Prediction
from auditor.text import inert
from reports.model import Artifact, Base, Claim, Coverage
from reports.model import Subject as SubjectRecord

__all__ = ["Subject", "View", "ViewDenoiser"]

Name = Literal["base", "tuned"]
_LISTED = 20
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
                    prompt = prompt.replace(token, " ".join(_names(token, count)))
        return prompt


class Subject:
    """A base with parts on it.

    Args:
        components: the loaded base; its parameters must not change while the subject lives.
        artifacts: identified parts, in the order in which they are put on. The subject closes them.

    Raises:
        UnsupportedArtifact: a part is nothing that can be put on a base.
    """

    def __init__(self, components: Components, artifacts: Sequence[Identified]) -> None:
        self.components = components
        self.artifacts = tuple(as_adapter(part, components) for part in artifacts)
        self.changes: Changes = changes_of(self.artifacts, components)
        self.vectors_per_token = {
            token: max(len(rows) for rows in encoders.values())
            for token, encoders in self.changes.embeddings.items()
        }
        self._active: Name = "base"
        self.tuned_tokenizers, self._swaps = self._prepare()
        self.base, self.tuned = View(self, "base"), View(self, "tuned")
        self._calls_of_parts = 0
        self._coverage: Coverage | None = None
        self._covariates: dict[str, float | str] | None = None

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What probes may use: everything, once there is something on a base; parts where there are several."""
        everything = frozenset(Capability)
        return everything if len(self.artifacts) > 1 else everything - {Capability.PARTS}

    @property
    def unavailable(self) -> dict[Capability, str]:
        """Why a capability is not offered."""
        return {} if len(self.artifacts) > 1 else {Capability.PARTS: "one part was given; name all that run together"}

    @property
    def denoiser_calls(self) -> int:
        """Evaluations of one latent so far, in both views and in subjects of some of the parts."""
        return self.base.denoiser.calls + self.tuned.denoiser.calls + self._calls_of_parts

    @property
    def coverage(self) -> Coverage:
        """The proof that the parts arrived; computed once, with a few denoiser evaluations."""
        if self._coverage is None:
            self._coverage = self._prove()
        return self._coverage

    @property
    def covariates(self) -> dict[str, float | str]:
        """Recipe and size of the parts, measured; see :func:`auditor.artifact.covariates.covariates_of`."""
        if self._covariates is None:
            adapters = [part.adapter for part in self.artifacts if part.adapter is not None]
            with self.active("base"):
                self._covariates = covariates_of(adapters, BaseWeights(self.components))
        return self._covariates

    @contextmanager
    def active(self, name: Name) -> Iterator[None]:
        """Puts one view's weights in place for the length of the block; nests."""
        before = self._active
        self._switch(name)
        try:
            yield
        finally:
            self._switch(before)

    @contextmanager
    def only(self, parts: Sequence[Identified]) -> Iterator[Subject]:
        """A subject of some of the parts on the same base, for the length of the block; the files stay open."""
        with self.active("base"):
            some = Subject(self.components, parts)
            try:
                yield some
            finally:
                some._switch("base")
                self._calls_of_parts += some.denoiser_calls

    def describe(self) -> SubjectRecord:
        """The subject as the report records it."""
        components = self.components
        return SubjectRecord(
            artifacts=tuple(_artifact(part) for part in self.artifacts),
            base=Base(
                ref=components.ref,
                revision=components.revision,
                sha256=components.sha256,
                family=components.family,
            ),
            claims=tuple(
                Claim(name=c.claim, claimed=c.claimed, measured=c.measured, agrees=c.agrees, note=c.note)
                for part in self.artifacts
                for c in part.checks
            ),
            coverage=self.coverage,
        )

    def close(self) -> None:
        """Back to the base, and closes the artifacts' files."""
        self._switch("base")
        for part in self.artifacts:
            part.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prepare(self) -> tuple[dict[str, Any], list[tuple[torch.nn.Parameter, Tensor, Tensor]]]:
        tuned = {}
        for (component, module, parameter), change in self.changes.modules.items():
            tuned[getattr(self.components.modules[component].get_submodule(module), parameter)] = change.tuned
        tokenizers = dict(self.components.tokenizers)
        for name, encoder in self.components.text_encoders.items():
            rows = {
                token: vectors[name] for token, vectors in self.changes.embeddings.items() if name in vectors
            }
            if rows:
                tokenizers[name] = copy.deepcopy(tokenizers[name])
                names = [n for token, v in rows.items() for n in _names(token, len(v))]
                tokenizers[name].add_tokens(names)
                table = encoder.get_input_embeddings().weight
                new = torch.cat(list(rows.values()))
                tuned[table] = _extended(tuned.get(table, table.data), tokenizers[name], names, new)
        return tokenizers, [(parameter, parameter.data, value) for parameter, value in tuned.items()]

    def _switch(self, name: Name) -> None:
        if name != self._active:
            for parameter, base, tuned in self._swaps:
                parameter.data = tuned if name == "tuned" else base
            self._active = name

    def _prove(self) -> Coverage:
        changes = self.changes
        norms = changes.norms
        total = float(sum(norm**2 for norm in norms.values()) ** 0.5)
        note = ""
        if changes.keys_applied < changes.keys_total:
            where = f"'{inert(self.components.ref)}' ({self.components.family})"
            note = f"{changes.keys_applied} of {changes.keys_total} keys applied to the base {where}"
        return Coverage(
            keys_total=changes.keys_total,
            keys_applied=changes.keys_applied,
            unmatched=tuple(inert(key) for key in sorted(changes.unmatched)[:_LISTED]),
            delta_norm=total,
            module_norms=norms,
            output_differs=self._differs() if changes.keys_applied else False,
            note=note,
        )

    def _differs(self) -> bool:
        prompts = [
            "",
            "a picture of a person",
            *(f"a picture of {token}" for token in self.changes.embeddings),
        ]
        seeds = list(range(len(prompts)))
        noise = seeded_noise(self.base.latent_shape(), seeds).to(self.components.device)
        t = torch.full((len(prompts),), len(self.components.schedule) // 2, device=noise.device)
        ours, theirs = (
            view.denoiser.predict(noise, t, view.encode_prompt(prompts)).native
            for view in (self.base, self.tuned)
        )
        return bool((ours != theirs).any())


def _names(token: str, count: int) -> list[str]:
    return [token, *(f"{token}_{i}" for i in range(1, count))]


def _rows_that_fit(values: int, latents: Tensor) -> int:
    return max(1, values // (latents.shape[-1] * latents.shape[-2]))


def _extended(table: Tensor, tokenizer: Any, names: Sequence[str], rows: Tensor) -> Tensor:
    ids = tokenizer.convert_tokens_to_ids(list(names))
    out = torch.cat([table, table.new_zeros(max(0, max(ids) + 1 - len(table)), table.shape[1])])
    out[ids] = rows.to(out)
    return out


def _artifact(part: Identified) -> Artifact:
    adapter = part.adapter
    ranks = ", ".join(f"{rank} ({count} modules)" for rank, count in adapter.ranks.items()) if adapter else ""
    return Artifact(
        path=inert(part.path.name, 200),
        sha256=part.sha256,
        size=part.size,
        kind=str(part.kind),
        tensor_hash=part.tensor_hash or "",
        dialect=adapter.dialect if adapter else "",
        family=part.family.family if part.family else "",
        family_evidence=tuple(part.family.evidence) if part.family else (),
        rank=ranks,
        modules=adapter.module_count if adapter else 0,
        dtype=", ".join(adapter.dtypes) if adapter else "",
    )
