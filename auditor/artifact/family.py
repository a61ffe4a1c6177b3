"""Which base an adapter was made for, inferred from module paths and weight shapes alone.

What the header claims is not looked at: it is compared with this in :mod:`auditor.artifact.claim_checks`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from auditor.artifact.architectures import ModuleShapes, TextPlan, UNetPlan, text_modules, unet_modules
from auditor.artifact.deltas import fits
from auditor.text import inert

__all__ = ["SIGNATURES", "FamilyMatch", "Signature", "expected_modules", "match_family", "title_of"]


@dataclass(frozen=True)
class Signature:
    """One base family: its short name, how a sentence calls it, and the plans its weights follow."""

    family: str
    title: str
    unet: UNetPlan
    text: TextPlan
    text_2: TextPlan | None = None


# The order is the order of preference where a file fits several: the older and far more common family first.
SIGNATURES: tuple[Signature, ...] = (
    Signature(
        "sd1",
        "SD1",
        UNetPlan((320, 640, 1280, 1280), (1, 1, 1, 0), middle=1, context=768),
        TextPlan(12, 768, 3072),
    ),
    Signature(
        "sd2",
        "SD2",
        UNetPlan((320, 640, 1280, 1280), (1, 1, 1, 0), middle=1, context=1024, linear=True),
        TextPlan(23, 1024, 4096),
    ),
    Signature(
        "sdxl",
        "SDXL",
        UNetPlan((320, 640, 1280), (0, 2, 10), middle=10, context=2048, linear=True, added=2816),
        TextPlan(12, 768, 3072),
        TextPlan(32, 1280, 5120, projection=1280),
    ),
    Signature(
        "embedded",
        "the embedded base",
        UNetPlan((64, 128, 192), (0, 1, 1), middle=1, context=192, layers=1),
        TextPlan(3, 192, 768),
    ),
)

# Above this share of modules that fit nowhere the shapes speak of another model, below it of a damaged or
# mixed file.
_MISFITS_TOLERATED = 0.05
_SHOWN = 3

Shapes = Mapping[str, Mapping[str, tuple[int, ...]]]


@dataclass(frozen=True)
class FamilyMatch:
    """The outcome of matching.

    Attributes:
        family: a name from :data:`SIGNATURES`, ``given`` or ``other``.
        evidence: sentences that say why; at least one.
        alternatives: other families whose every shape also fits, so that nothing in the file separates them.
        misfits: ``component: module`` that the family does not have, or has in another shape.
    """

    family: str
    evidence: tuple[str, ...]
    alternatives: tuple[str, ...] = ()
    misfits: tuple[str, ...] = ()


def title_of(family: str) -> str:
    """How a sentence calls a family; the name itself where it is not one of ours."""
    return next((s.title for s in SIGNATURES if s.family == family), family)


def expected_modules(signature: Signature, component: str) -> ModuleShapes:
    """Module path to weight shape of one component of a family; empty if it has no such component."""
    if component == "unet":
        return unet_modules(signature.unet)
    plan = {"text_encoder": signature.text, "text_encoder_2": signature.text_2}.get(component)
    return text_modules(plan) if plan is not None else {}


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
    misfits = {s.family: tuple(_misfits(modules, s)) + tuple(_vector_misfits(widths, s)) for s in SIGNATURES}
    fitting = [s for s in SIGNATURES if not misfits[s.family]]
    fitting.sort(key=lambda s: _rank_only_misfits(modules, s))
    if fitting:
        best, rest = fitting[0], fitting[1:]
        exact = _rank_only_misfits(modules, best)
        others = tuple(s.family for s in rest if _rank_only_misfits(modules, s) == exact)
        return FamilyMatch(best.family, tuple(_evidence(modules, widths, best, others)), others)
    if given is not None and not any(_absent(given.get(c, {}), paths) for c, paths in modules.items()):
        return FamilyMatch(
            "given", (f"all {total} modules are in the base that was given, in the same shapes",)
        )
    nearest = min(SIGNATURES, key=lambda s: len(misfits[s.family]))
    wrong = misfits[nearest.family]
    if total and len(wrong) <= _MISFITS_TOLERATED * total:
        told = f"{len(wrong)} of {total} modules do not fit {nearest.title}, such as {inert(wrong[0])}"
        return FamilyMatch(nearest.family, (*_evidence(modules, widths, nearest, ()), told), misfits=wrong)
    return FamilyMatch("other", tuple(_why_other(modules, widths, nearest, wrong)), misfits=wrong)


def _evidence(
    modules: Shapes, widths: Mapping[str, tuple[int, ...]], best: Signature, others: tuple[str, ...]
) -> Iterator[str]:
    context = _context_columns(modules)
    if context:
        yield f"attn2.to_k takes {_listed(context)} columns: {best.title} text width"
    for encoder in ("text_encoder", "text_encoder_2"):
        if encoder in modules:
            width = expected_modules(best, encoder)["text_model.final_layer_norm"][0]
            users = ", ".join(s.title for s in SIGNATURES if _hidden(s, encoder) == width)
            yield f"{encoder} layers are {width} wide: as in {users}"
    if widths:
        told = ", ".join(f"{encoder} {_listed(sizes)}" for encoder, sizes in sorted(widths.items()))
        yield f"token vectors have {told} values: {best.title} text width"
    for other in SIGNATURES:
        if other is not best and other.family not in others:
            apart = _first_apart(modules, best, other)
            if apart:
                yield apart
    if others:
        also = " and ".join(title_of(family) for family in others)
        yield f"every shape also fits {also}: nothing in the file separates them from {best.title}"


def _first_apart(modules: Shapes, best: Signature, other: Signature) -> str:
    for component, paths in modules.items():
        mine, theirs = expected_modules(best, component), expected_modules(other, component)
        for path, shape in paths.items():
            if path not in mine or mine[path] == theirs.get(path):
                continue
            if 0 in shape and fits(theirs.get(path, ()), shape):
                continue
            if not theirs:
                return f"there is a {component}: {other.title} has none"
            if path not in theirs:
                return f"{path} is changed: {other.title} has no such module"
            return f"{path} has shape {_shown(shape)}: {other.title} has {theirs[path]}"
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
    yield f"the nearest known family, {nearest.title}, does not have {len(wrong)} of them: {shown}"


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
    wanted = {encoder: _hidden(signature, encoder) for encoder in ("text_encoder", "text_encoder_2")}
    for encoder, sizes in widths.items():
        if sizes != (wanted.get(encoder),):
            yield f"{encoder}: token vectors"
    # A token needs vectors for the second encoder where there is one; a file for the second alone is half a
    # pair.
    if widths and signature.text_2 is not None and "text_encoder_2" not in widths:
        yield "text_encoder_2: token vectors"


def _hidden(signature: Signature, encoder: str) -> int | None:
    plan = signature.text if encoder == "text_encoder" else signature.text_2
    return None if plan is None else plan.hidden


def _context_columns(modules: Shapes) -> tuple[int, ...]:
    found = {
        shape[1]
        for path, shape in modules.get("unet", {}).items()
        if len(shape) > 1 and shape[1] and path.endswith((".attn2.to_k", ".attn2.to_v"))
    }
    return tuple(sorted(found))


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(str(n) for n in numbers)
