"""Which base an adapter was made for, inferred from module paths and weight shapes alone.

What the header claims is not looked at: it is compared with this in :mod:`auditor.artifact.claim_checks`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from auditor.artifact.architectures import ModuleShapes, TextPlan, UNetPlan, text_modules, unet_modules
from auditor.artifact.deltas import fits
from auditor.artifact.transformer_plans import (
    FluxPlan,
    SD3Plan,
    T5Plan,
    flux_modules,
    sd3_modules,
    t5_modules,
)
from auditor.text import inert

__all__ = [
    "SIGNATURES",
    "FamilyMatch",
    "Signature",
    "expected_modules",
    "match_family",
    "named_like",
    "title_of",
]

DenoiserPlan: TypeAlias = UNetPlan | SD3Plan | FluxPlan
EncoderPlan: TypeAlias = TextPlan | T5Plan


@dataclass(frozen=True)
class Signature:
    """One base: what its weights look like, and how a sentence calls it.

    Attributes:
        family: short name of the family it belongs to.
        title: how a sentence calls the family.
        denoiser: the plan of ``unet``, or of ``transformer``.
        text: the plans of ``text_encoder``, ``text_encoder_2`` and so on, in that order.
        size: which member of a family of several, ``medium`` for example.
    """

    family: str
    title: str
    denoiser: DenoiserPlan
    text: tuple[EncoderPlan, ...]
    size: str = ""

    @property
    def called(self) -> str:
        """How a sentence calls this very base."""
        return f"{self.title}{self.size}"

    @property
    def plans(self) -> dict[str, DenoiserPlan | EncoderPlan]:
        """Component to plan."""
        denoiser = "unet" if isinstance(self.denoiser, UNetPlan) else "transformer"
        return {denoiser: self.denoiser, **{_encoder(i): plan for i, plan in enumerate(self.text)}}


def _encoder(index: int) -> str:
    return f"text_encoder_{index + 1}" if index else "text_encoder"


_CLIP_L = TextPlan(12, 768, 3072)
_CLIP_G = TextPlan(32, 1280, 5120, projection=1280)
_SD3_TEXT = (replace(_CLIP_L, projection=768), _CLIP_G, T5Plan())

# The order is the order of preference where a file fits several: the older and far more common family first.
SIGNATURES: tuple[Signature, ...] = (
    Signature(
        "sd1",
        "SD1",
        UNetPlan((320, 640, 1280, 1280), (1, 1, 1, 0), middle=1, context=768),
        (_CLIP_L,),
    ),
    Signature(
        "sd2",
        "SD2",
        UNetPlan((320, 640, 1280, 1280), (1, 1, 1, 0), middle=1, context=1024, linear=True),
        (TextPlan(23, 1024, 4096),),
    ),
    Signature(
        "sdxl",
        "SDXL",
        UNetPlan((320, 640, 1280), (0, 2, 10), middle=10, context=2048, linear=True, added=2816),
        (_CLIP_L, _CLIP_G),
    ),
    Signature(
        "embedded",
        "the embedded base",
        UNetPlan((64, 128, 192), (0, 1, 1), middle=1, context=192, layers=1),
        (TextPlan(3, 192, 768),),
    ),
    Signature("sd3", "SD3", SD3Plan(1536, 24), _SD3_TEXT, " medium"),
    Signature("sd3", "SD3", SD3Plan(1536, 24, dual=13, normed=True), _SD3_TEXT, ".5 medium"),
    Signature("sd3", "SD3", SD3Plan(2432, 38, normed=True), _SD3_TEXT, ".5 large"),
    Signature("flux", "Flux", FluxPlan(), (_CLIP_L, T5Plan()), " dev"),
    Signature("flux", "Flux", FluxPlan(guidance=False), (_CLIP_L, T5Plan()), " schnell"),
)

# Above this share of modules that fit nowhere the shapes speak of another model, below it of a damaged or
# mixed file.
_MISFITS_TOLERATED = 0.05
_SHOWN = 3

_NUMBER = re.compile(r"(?<=\.)[0-9]+(?=\.|$)")
# Modulations and embeddings, which Chroma computes elsewhere.
_FLUX_ONLY = re.compile(r"(?:norm1|norm1_context|norm|norm_out)\.linear$|^time_text_embed\.")

Shapes = Mapping[str, Mapping[str, tuple[int, ...]]]


@dataclass(frozen=True)
class FamilyMatch:
    """The outcome of matching.

    Attributes:
        family: a name from :data:`SIGNATURES`, ``given`` or ``other``.
        evidence: sentences that say why; at least one.
        alternatives: other families whose every shape also fits, so that nothing in the file separates them.
        misfits: ``component: module`` that the family does not have, or has in another shape.
        sizes: how the members of the family are called that the shapes fit.
    """

    family: str
    evidence: tuple[str, ...]
    alternatives: tuple[str, ...] = ()
    misfits: tuple[str, ...] = ()
    sizes: tuple[str, ...] = ()


def title_of(family: str) -> str:
    """How a sentence calls a family; the name itself where it is not one of ours."""
    return next((s.title for s in SIGNATURES if s.family == family), family)


def expected_modules(signature: Signature, component: str) -> ModuleShapes:
    """Module path to weight shape of one component of a base; empty if it has no such component."""
    plan = signature.plans.get(component)
    if isinstance(plan, UNetPlan):
        return unet_modules(plan)
    if isinstance(plan, SD3Plan):
        return sd3_modules(plan)
    if isinstance(plan, FluxPlan):
        return flux_modules(plan)
    if isinstance(plan, T5Plan):
        return t5_modules(plan)
    return text_modules(plan) if plan is not None else {}


def named_like(family: str, component: str, paths: Iterable[str]) -> bool:
    """Whether every module has a name that the family has too, whatever the number of its blocks."""
    known = {
        _NUMBER.sub("#", path)
        for signature in SIGNATURES
        if signature.family == family
        for path in expected_modules(signature, component)
    }
    return {_NUMBER.sub("#", path) for path in paths} <= known


def match_family(modules: Shapes, vectors: Shapes | None = None, given: Shapes | None = None) -> FamilyMatch:
    """Finds the family that has every module in the shape the adapter changes.

    Args:
        modules: component to module path to the shape of the weight that is changed.
        vectors: token to text encoder to the shape of its vectors.
        given: component to module path to weight shape of a base that was named, matched beside the table.

    Returns:
        The first family in the table without a misfit (one whose projections also agree in being linear or
        convolutional goes first); else the nearest one if at most 5 % of the modules do not fit; else
        ``other``.
    """
    widths = _vector_widths(vectors or {})
    total = sum(len(paths) for paths in modules.values())
    if not total and not widths:
        return FamilyMatch("other", ("there is no module or vector to infer a family from",))
    misfits = {s: (*_misfits(modules, s), *_vector_misfits(widths, s)) for s in SIGNATURES}
    fitting = [s for s in SIGNATURES if not misfits[s]]
    fitting.sort(key=lambda s: _rank_only_misfits(modules, s))
    if fitting:
        best, rest = fitting[0], fitting[1:]
        exact = _rank_only_misfits(modules, best)
        others = tuple(s for s in rest if _rank_only_misfits(modules, s) == exact)
        families = tuple(dict.fromkeys(s.family for s in others if s.family != best.family))
        sizes = tuple(s.called for s in (best, *others) if s.family == best.family)
        return FamilyMatch(
            best.family, tuple(_evidence(modules, widths, best, others)), families, sizes=sizes
        )
    if given is not None and not any(_absent(given.get(c, {}), paths) for c, paths in modules.items()):
        return FamilyMatch(
            "given", (f"all {total} modules are in the base that was given, in the same shapes",)
        )
    nearest = min(SIGNATURES, key=lambda s: (len(misfits[s]), _unnamed(modules, s)))
    wrong = misfits[nearest]
    if total and len(wrong) <= _MISFITS_TOLERATED * total:
        told = f"{len(wrong)} of {total} modules do not fit {nearest.called}, such as {inert(wrong[0])}"
        evidence = (*_evidence(modules, widths, nearest, ()), told)
        return FamilyMatch(nearest.family, evidence, misfits=wrong, sizes=(nearest.called,))
    return FamilyMatch("other", tuple(_why_other(modules, widths, nearest, wrong)), misfits=wrong)


def _evidence(
    modules: Shapes, widths: Mapping[str, tuple[int, ...]], best: Signature, others: tuple[Signature, ...]
) -> Iterator[str]:
    context = _context_columns(modules)
    if context:
        yield f"attn2.to_k takes {_listed(context)} columns: {best.title} text width"
    denoiser = modules.get("transformer", {})
    joint = denoiser.get("context_embedder", ())[1:]
    if joint == expected_modules(best, "transformer").get("context_embedder", ())[1:] != ():
        yield f"context_embedder takes {_listed(joint)} columns: the text width of SD3 and Flux"
    inner = _stream_width(modules)
    alike = [s for s in SIGNATURES if _width(s) in inner]
    if alike:
        yield f"transformer attention is {_listed(inner)} wide: as in {_called(alike)}"
    own = [s for s in others if s.family == best.family]
    if own:
        yield f"every shape fits {_called((best, *own))}: nothing in the file tells these sizes apart"
    elif best.size and next(_misfits(modules, best), None) is None:
        yield f"of the sizes of {best.title} only {best.called} has all of these modules"
    for encoder, plan in best.plans.items():
        if encoder in modules and isinstance(plan, TextPlan | T5Plan):
            users = _called((s for s in SIGNATURES if _hidden(s, encoder) == plan.hidden), sizes=False)
            yield f"{encoder} layers are {plan.hidden} wide: as in {users}"
    if widths:
        told = ", ".join(f"{encoder} {_listed(sizes)}" for encoder, sizes in sorted(widths.items()))
        yield f"token vectors have {told} values: {best.title} text width"
    apart = [s for s in SIGNATURES if s is not best and s not in others]
    yield from _told_apart(modules, best, apart)
    foreign = [s for s in others if s.family != best.family]
    if foreign:
        also = _called(foreign, sizes=False)
        yield f"every shape also fits {also}: nothing in the file separates them from {best.title}"
    if best.family == "flux" and denoiser and not any(_FLUX_ONLY.search(path) for path in denoiser):
        yield "Chroma has the attention and feed-forward layers of Flux: nothing here separates the two"


def _told_apart(modules: Shapes, best: Signature, apart: list[Signature]) -> Iterator[str]:
    """What each of the others lacks; those that lack a component as a whole are named together."""
    for component in modules:
        without = [s for s in apart if component not in s.plans]
        if without:
            yield f"there is a {component}: {_called(without, sizes=False)} have none"
    for other in apart:
        told = "" if set(modules) - set(other.plans) else _first_apart(modules, best, other)
        if told:
            yield told


def _first_apart(modules: Shapes, best: Signature, other: Signature) -> str:
    for component, paths in modules.items():
        mine, theirs = expected_modules(best, component), expected_modules(other, component)
        for path, shape in paths.items():
            if path not in mine or mine[path] == theirs.get(path):
                continue
            if 0 in shape and fits(theirs.get(path, ()), shape):
                continue
            if path not in theirs:
                return f"{path} is changed: {other.called} has no such module"
            return f"{path} has shape {_shown(shape)}: {other.called} has {theirs[path]}"
    return ""


def _shown(shape: tuple[int, ...]) -> str:
    """A shape whose axes of size 0 are those of which the file says nothing."""
    return str(shape) if 0 not in shape else f"({', '.join(str(size or '?') for size in shape)})"


def _why_other(
    modules: Shapes, widths: Mapping[str, tuple[int, ...]], nearest: Signature, wrong: tuple[str, ...]
) -> Iterator[str]:
    context = _context_columns(modules)
    if context:
        yield f"attn2.to_k takes {_listed(context)} columns"
    for encoder, sizes in sorted(widths.items()):
        yield f"token vectors for {encoder} have {_listed(sizes)} values"
    shown = ", ".join(inert(item) for item in wrong[:_SHOWN])
    yield f"the nearest known family, {nearest.called}, does not have {len(wrong)} of them: {shown}"


def _misfits(modules: Shapes, signature: Signature) -> Iterator[str]:
    for component, paths in modules.items():
        for path in _absent(expected_modules(signature, component), paths):
            yield f"{component}: {path}"


def _absent(have: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> list[str]:
    return [p for p, shape in wanted.items() if p not in have or not fits(have[p], shape)]


def _rank_only_misfits(modules: Shapes, signature: Signature) -> int:
    """How many modules agree in size but not in being linear or a 1x1 convolution."""
    return sum(
        0 not in shape and len(expected_modules(signature, component).get(path, shape)) != len(shape)
        for component, paths in modules.items()
        for path, shape in paths.items()
    )


def _vector_widths(vectors: Shapes) -> dict[str, tuple[int, ...]]:
    found: dict[str, set[int]] = {}
    for encoders in vectors.values():
        for encoder, shape in encoders.items():
            found.setdefault(encoder, set()).add(shape[-1] if shape else 0)
    return {encoder: tuple(sorted(sizes)) for encoder, sizes in found.items()}


def _vector_misfits(widths: Mapping[str, tuple[int, ...]], signature: Signature) -> Iterator[str]:
    for encoder, sizes in widths.items():
        if sizes != (_hidden(signature, encoder),):
            yield f"{encoder}: token vectors"
    # A token needs vectors for the second encoder where that is a CLIP; a file for the second alone is half a
    # pair. T5 goes without.
    if (
        widths
        and isinstance(signature.plans.get("text_encoder_2"), TextPlan)
        and "text_encoder_2" not in widths
    ):
        yield "text_encoder_2: token vectors"


def _hidden(signature: Signature, encoder: str) -> int | None:
    plan = signature.plans.get(encoder)
    return plan.hidden if isinstance(plan, TextPlan | T5Plan) else None


def _width(signature: Signature) -> int | None:
    plan = signature.denoiser
    return None if isinstance(plan, UNetPlan) else plan.width


def _called(signatures: Iterable[Signature], sizes: bool = True) -> str:
    names = dict.fromkeys(s.called if sizes else s.title for s in signatures)
    *rest, last = names
    return f"{', '.join(rest)} and {last}" if rest else last


def _unnamed(modules: Shapes, signature: Signature) -> int:
    """How many modules are not even in the base by name."""
    return sum(
        path not in expected_modules(signature, component)
        for component, paths in modules.items()
        for path in paths
    )


def _context_columns(modules: Shapes) -> tuple[int, ...]:
    found = {
        shape[1]
        for path, shape in modules.get("unet", {}).items()
        if len(shape) > 1 and shape[1] and path.endswith((".attn2.to_k", ".attn2.to_v"))
    }
    return tuple(sorted(found))


def _stream_width(modules: Shapes) -> tuple[int, ...]:
    found = {
        shape[0]
        for path, shape in modules.get("transformer", {}).items()
        if len(shape) > 1
        and shape[0]
        and path.endswith((".to_q", ".to_k", ".to_v", "_proj", ".to_out.0", ".to_add_out"))
    }
    return tuple(sorted(found))


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(str(n) for n in numbers)
