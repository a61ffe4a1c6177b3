"""Naming schemes for adapters: one file each, all read into :class:`auditor.artifact.adapter.Adapter`.

A scheme is a module with ``NAME``, ``recognises(source)`` and ``collect(source, context)``; :data:`DIALECTS`
lists them in the order in which they are tried.
"""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

from auditor.artifact.adapter import Adapter
from auditor.artifact.claims import Claims
from auditor.artifact.dialects import (
    diffusers,
    kohya,
    ordinal,
    original,
    overwrite,
    staged,
    stepwise,
    textual_inversion,
)
from auditor.artifact.dialects.collect import Collected, Context
from auditor.artifact.dialects.roles import LYCORIS_SIGN
from auditor.artifact.dialects.unsupported import is_foreign, name_encoder, name_unsupported, refuse
from auditor.artifact.family import FamilyMatch, match_family, title_of
from auditor.artifact.problems import Problem, problem
from auditor.artifact.tensors import TensorSource

__all__ = ["DIALECTS", "Context", "read_adapter"]

DIALECTS: tuple[ModuleType, ...] = (
    *(kohya, original, diffusers, ordinal, overwrite),
    *(staged, stepwise, textual_inversion),
)  # fmt: skip
# Where every UNet takes token states: what is as wide as its columns can stand in for them.
_CROSS_ATTENTION = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"


def read_adapter(
    source: TensorSource, context: Context | None = None, claims: Claims | None = None
) -> Adapter:
    """Reads a set of named tensors as an adapter, whatever dialect it is in.

    Args:
        source: the tensors; only names, shapes and the alphas are read here.
        context: file name, PEFT config and named base, as far as known.
        claims: what the file says of itself; carried along, not used.

    Raises:
        UnsupportedArtifact: no dialect reads it; the message names the kind if it is a known one.
    """
    context = context or Context()
    reason = ""
    for dialect in DIALECTS:
        if not dialect.recognises(source):
            continue
        found: Collected = dialect.collect(source, context)
        if not found.components and not found.embeddings and found.endings is None:
            reason = reason or next((p.detail for p in found.problems if p.severity != "info"), "")
            continue
        family = _family(found, context)
        names = list(source.specs)
        another = family.family == "other" or ("transformer" in found.components and is_foreign(names))
        kind = name_unsupported(names) if another else None
        if kind is not None and kind.telling:
            break
        foreign = name_encoder({t.shape[-1] for e in found.embeddings.values() for t in e.values()})
        if family.family == "other" and not found.components and foreign is not None:
            raise foreign
        return Adapter(
            dialect=_name(dialect, source, context),
            family=family.family,
            family_match=family,
            components=found.components,
            embeddings=found.embeddings,
            unmatched=found.unmatched,
            claims=claims or Claims(),
            problems=(*found.problems, *_unmatched_problems(found), *_misfit_problems(family)),
            endings=found.endings,
        )
    raise refuse(list(source.specs), reason)


def _name(dialect: ModuleType, source: TensorSource, context: Context) -> str:
    if dialect is diffusers and context.config is not None:
        return "peft"
    if dialect in (kohya, original, diffusers) and any(LYCORIS_SIGN.search(name) for name in source.specs):
        return "lycoris"
    return str(dialect.NAME)


def _family(found: Collected, context: Context) -> FamilyMatch:
    modules = {
        component: {path: delta.shape for path, delta in deltas.items()}
        for component, deltas in found.components.items()
    }
    if found.endings is not None:
        modules = {"unet": {_CROSS_ATTENTION: (0, found.endings.shape[-1])}}
    vectors = {
        token: {e: t.shape for e, t in encoders.items()} for token, encoders in found.embeddings.items()
    }
    match = match_family(modules, vectors, context.base)
    if found.endings is None or match.family == "other":
        return match
    told = f"states at the end of prompts have {found.endings.shape[-1]} values: {title_of(match.family)} text width"
    return replace(match, evidence=(told,))


def _unmatched_problems(found: Collected) -> tuple[Problem, ...]:
    if not found.unmatched:
        return ()
    kind = name_unsupported(found.unmatched)
    told = f"; some look like {kind.name}" if kind is not None else ""
    first = found.unmatched[0]
    return (
        problem(
            "dialect.unmatched",
            "medium",
            f"{len(found.unmatched)} keys were not understood, '{first}' for example{told}",
        ),
    )


def _misfit_problems(family: FamilyMatch) -> tuple[Problem, ...]:
    if not family.misfits or family.family == "other":
        return ()
    told = f"{len(family.misfits)} modules do not fit {family.family}, '{family.misfits[0]}' for example"
    return (problem("family.misfit", "medium", told),)
