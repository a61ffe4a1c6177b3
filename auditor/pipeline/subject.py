"""The subject of an audit: a base, the parts put on it, and two views over the same weights.

``base`` and ``tuned`` are switched by swapping the storage of the parameters that change, nothing else: no
second copy of the model, no arithmetic on the way back, so the base is the same bit for bit after any
number of switches, also after an exception.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from auditor.artifact.covariates import covariates_of
from auditor.artifact.identify import Identified
from auditor.contracts import Capability
from auditor.pipeline.base_weights import BaseWeights
from auditor.pipeline.components import Components
from auditor.pipeline.full_model import as_adapter
from auditor.pipeline.parts import Changes, changes_of
from auditor.pipeline.sampling import seeded_noise
from auditor.pipeline.view import Name, View, token_names
from auditor.text import inert
from reports.model import Artifact, Base, Claim, Coverage
from reports.model import Subject as SubjectRecord

__all__ = ["Subject"]

_LISTED = 20


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

    @contextmanager
    def leaving_out(self, modules: Collection[tuple[str, str, str]]) -> Iterator[None]:
        """Lets some of the changed modules keep the base's weights in the tuned view, for the length of the block.

        Args:
            modules: keys of :attr:`Changes.modules`.
        """
        left = {id(self._parameter(key)) for key in modules}
        every = self._swaps
        with self.active("base"):
            self._swaps = [swap for swap in every if id(swap[0]) not in left]
            self.tuned.forget()
            try:
                yield
            finally:
                self._switch("base")
                self._swaps = every
                self.tuned.forget()

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
        for key, change in self.changes.modules.items():
            tuned[self._parameter(key)] = change.tuned
        tokenizers = dict(self.components.tokenizers)
        for name, encoder in self.components.text_encoders.items():
            rows = {
                token: vectors[name] for token, vectors in self.changes.embeddings.items() if name in vectors
            }
            if rows:
                tokenizers[name] = copy.deepcopy(tokenizers[name])
                names = [n for token, v in rows.items() for n in token_names(token, len(v))]
                tokenizers[name].add_tokens(names)
                table = encoder.get_input_embeddings().weight
                new = torch.cat(list(rows.values()))
                tuned[table] = _extended(tuned.get(table, table.data), tokenizers[name], names, new)
        return tokenizers, [(parameter, parameter.data, value) for parameter, value in tuned.items()]

    def _parameter(self, key: tuple[str, str, str]) -> torch.nn.Parameter:
        component, module, parameter = key
        found: torch.nn.Parameter = getattr(self.components.modules[component].get_submodule(module), parameter)
        return found

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
