"""Which kind of training made an adapter, read from its weights alone, and how far that can be told.

Every change is described in the form with the fewest parameters that fits it exactly: low rank, a Kronecker product
(DiffuseKronA, LoKr), or the base weight times offsets of low rank (SigStyle). Low rank is looked at further: an input
factor that was never trained (Orthogonal Adaptation), or components that are not exchangeable, as after merging.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from auditor.artifact.adapter import Adapter, Delta, LowRank, Overwrite, tensors_in
from auditor.artifact.features import BaseWeight
from auditor.artifact.structure import HADAMARD_RANK, hadamard_rank, kronecker_fit, numerical_rank
from auditor.errors import IncompatibleArtifact, RefusedArtifact
from auditor.text import inert

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["KINDS", "RecipeGuess", "classify"]

Kind: TypeAlias = Literal[
    "low_rank", "kronecker", "frozen_input", "multiplicative", "norms", "embedding", "per_step_embedding", "merged",
    "unknown", "full",
]  # fmt: skip
KINDS: tuple[Kind, ...] = (
    "low_rank", "kronecker", "frozen_input", "multiplicative", "norms", "embedding", "per_step_embedding", "merged",
    "unknown", "full",
)  # fmt: skip

_SAMPLED = 12
_LARGEST = 1 << 22
_AGREE = 0.8
_WHOLE = 0.25
_MERGED_BELOW = 1e-4
# Shares of a change that rounding may make up, beyond which its form is not looked for.
_COARSE, _COARSE_WHOLE = 0.1, 0.01
_FEWEST_MERGED = 8
# Half a unit in the last place, as a share of the value: what rounding to a type leaves.
_ROUNDING = {"F64": 2.0**-53, "F32": 2.0**-24, "F16": 2.0**-11, "BF16": 2.0**-8}
_NUMBERED = re.compile(r"(?P<stem>.*?)[^0-9a-z]?(?P<number>\d+)\]?", re.IGNORECASE)


@dataclass(frozen=True)
class RecipeGuess:
    """What made an adapter.

    Attributes:
        kind: ``low_rank`` (LoRA), ``kronecker`` (LoKr, DiffuseKronA), ``frozen_input`` (low rank whose input factor was
            never trained), ``multiplicative`` (weight offsets), ``norms`` (overwritten norm parameters), ``full``
            (new weights whose difference to the base has no shorter form), ``embedding``, ``per_step_embedding``,
            ``merged`` (several low-rank adapters side by side), ``unknown``.
        rank: the rank most changes have: of the update, of its offsets, or of the left factor's rows; None without.
        evidence: sentences on what was seen.
        alternatives: sentences on what would look the same.
    """

    kind: Kind
    rank: int | None
    evidence: tuple[str, ...]
    alternatives: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Form:
    """The shortest exact description of one change."""

    kind: Kind
    rank: int
    parameters: float
    told: str = ""


def classify(adapter: Adapter, base_weights: BaseWeight | None = None) -> RecipeGuess:
    """Guesses the recipe of an adapter.

    Args:
        adapter: its tensors are read here, those of twelve modules at most for what takes a decomposition.
        base_weights: gives base weights; multiplicative changes cannot be told without, nor overwritten weights.
    """
    modules = [(c, p, delta) for c, p, delta in adapter.modules() if not _is_the_bases(delta, base_weights, c, p)]
    if not modules:
        return _of_embeddings(adapter)
    also = (f"{len(adapter.embeddings)} new words come with it",) if adapter.embeddings else ()
    norms = [path for _, path, delta in modules if _is_norm(path, delta)]
    if len(norms) == len(modules):
        told = f"{len(norms)} norm layers get new parameters in place of the old ones, which unloading does not undo"
        return RecipeGuess("norms", None, (told, *also))
    forms = [_form(delta, _weight(base_weights, c, p)) for c, p, delta in _sample(modules)]
    counts = Counter(form.kind for form in forms)
    kind, count = counts.most_common(1)[0]
    # Small differences, rounded, seem to have a shorter form; no shorter recipe leaves a part of them without one.
    if counts["full"] >= _WHOLE * len(forms):
        kind, count = "full", counts["full"]
    seen = f"{count} of {len(forms)} changes looked at"
    if kind == "unknown" or (count < _AGREE * len(forms) and kind != "full"):
        listed = ", ".join(f"{n} {name}" for name, n in counts.most_common())
        unseen = () if base_weights is not None else ("without the base, weight offsets cannot be told",)
        return RecipeGuess("unknown", None, (f"changes looked at: {listed}", *also), unseen)
    rank = Counter(form.rank for form in forms if form.kind == kind).most_common(1)[0][0]
    if kind == "low_rank":
        return _of_low_rank([delta for _, _, delta in modules if isinstance(delta, LowRank)], rank, (seen, *also))
    notes = tuple(dict.fromkeys(form.told for form in forms if form.kind == kind))[:3]
    if kind == "full":
        merged = ("adapters merged into the weights, and rounded",)
        return RecipeGuess(kind, None, (f"{seen}: {'; '.join(notes)}", *also), merged)
    return RecipeGuess(kind, rank, (f"{seen}: {'; '.join(notes)}", *also))


def _of_embeddings(adapter: Adapter) -> RecipeGuess:
    if adapter.endings is not None:
        told = "{} sets of {} states stand in for the end of every encoded prompt".format(*adapter.endings.shape)
        return RecipeGuess("per_step_embedding", None, (told,))
    tokens = list(adapter.embeddings)
    if not tokens:
        return RecipeGuess("unknown", None, ("there is neither a change nor a vector",))
    rows = _numbered_rows(tokens)
    if rows:
        listed = ", ".join(f"'{inert(stem, 40)}' {row[0]} to {row[-1]}" for stem, row in sorted(rows.items()))
        told = f"{len(tokens)} sets of vectors are numbered in a row, {listed}"
        return RecipeGuess("per_step_embedding", None, (told,), ("several words with numbered names",))
    stacks = [t.array() for encoders in adapter.embeddings.values() for t in encoders.values() if len(t.shape) == 2]
    smooth = [stack for stack in stacks if len(stack) >= 4 and _is_smooth(stack)]
    if smooth and len(smooth) == len(stacks):
        told = f"neighbours among the {len(smooth[0])} vectors of a word are alike, as those of successive steps are"
        return RecipeGuess("per_step_embedding", None, (told,), ("one word with vectors of a common start",))
    return RecipeGuess("embedding", None, (f"{len(tokens)} new words and no change of a weight",))


def _numbered_rows(tokens: Sequence[str]) -> dict[str, list[int]]:
    """Stem to the numbers behind it, if all tokens are numbered in a row, equally far for every stem; else empty."""
    rows: dict[str, list[int]] = {}
    for token in tokens:
        found = _NUMBERED.fullmatch(token)
        if found is None:
            return {}
        rows.setdefault(found["stem"], []).append(int(found["number"]))
    for row in rows.values():
        row.sort()
    first = next(iter(rows.values()), [])
    alike = len(first) > 1 and first == list(range(first[0], first[0] + len(first)))
    return rows if alike and all(row == first for row in rows.values()) else {}


def _of_low_rank(deltas: Sequence[LowRank], rank: int, seen: tuple[str, ...]) -> RecipeGuess:
    gaussian = "a frozen factor with Gaussian entries looks like a trained one"
    if not deltas:
        return RecipeGuess("low_rank", rank, (*seen, "changes are stored in full"), ("any recipe of low rank",))
    factors = [delta.factors() for delta in deltas]
    rounding = [_ROUNDING.get(delta.down.dtype, 2.0**-8) for delta in deltas]
    frozen = [_orthonormal(down, eps) for (_, down), eps in zip(factors, rounding, strict=True)]
    extracted = [_orthogonal_columns(up, eps) for (up, _), eps in zip(factors, rounding, strict=True)]
    p, split = _exchangeable(factors)
    many = sum(len(down) > 1 for _, down in factors) >= _AGREE * len(factors)
    if sum(frozen) >= 0.9 * len(frozen) and many and sum(extracted) >= 0.9 * len(extracted):
        told = "both factors are orthogonal: singular vectors, extracted from a fine-tune or cut to a lower rank"
        return RecipeGuess("low_rank", rank, (*seen, told), ("merged adapters that were decomposed anew",))
    if p < _MERGED_BELOW and _sorted(factors):
        told = "components fall in strength in every layer: singular vectors, extracted from a fine-tune or resized"
        return RecipeGuess("low_rank", rank, (*seen, told), ("a start from sorted singular vectors (PiSSA)", "merged"))
    if p < _MERGED_BELOW:
        told = f"components up to the {split}th differ in strength from the others in all layers (p = {p:.1g})"
        return RecipeGuess("merged", rank, (*seen, told), ("a start from sorted singular vectors (PiSSA)", gaussian))
    if sum(frozen) >= 0.9 * len(frozen) and many:
        told = f"input factors are orthonormal in {sum(frozen)} of {len(frozen)} layers; training would not leave that"
        return RecipeGuess("frozen_input", rank, (*seen, told), ("such adapters of one strength, merged",))
    if _shared(factors):
        return RecipeGuess("frozen_input", rank, (*seen, "layers of one width have one and the same input factor"))
    return RecipeGuess("low_rank", rank, seen, (gaussian, "merged adapters of equal strength"))


def _form(delta: Delta, base: NDArray[np.float64] | None) -> _Form:
    """The form of one change; ``unknown`` where nothing shorter than all its entries fits."""
    import numpy as np

    try:
        stored = delta if isinstance(delta, LowRank) else None
        change = np.asarray(delta.delta(None if base is None else base), np.float64)
    except (IncompatibleArtifact, RefusedArtifact):
        return _Form("unknown", 0, math.inf)
    if change.ndim < 2 or not np.isfinite(change).all() or not change.any():
        return _Form("unknown", 0, math.inf)
    matrix = change.reshape(len(change), -1)
    noise = _noise(delta, matrix, base)
    whole: Kind = "full" if isinstance(delta, Overwrite) else "unknown"
    # Rounding of a whole weight is much of a small change: a form that is told from the rest of it is soon found.
    if noise > (_COARSE if whole == "unknown" else _COARSE_WHOLE):
        return _Form(whole, 0, math.inf, "new weights, rounded too coarsely to see any form in their difference")
    forms = [_Form(whole, 0, float(matrix.size), "new weights, different from the base's in every direction")]
    rank = _product_rank(stored) if stored is not None else numerical_rank(matrix, noise)
    # Factors are a form of their own, also where they have no fewer entries than the weight.
    entries = rank * sum(matrix.shape) if stored is None else min(rank * sum(matrix.shape), matrix.size - 1)
    forms.append(_Form("low_rank", rank, entries))
    fit = kronecker_fit(matrix, noise, below=forms[-1].parameters)
    if fit is not None:
        told = f"a Kronecker product with a left factor of {fit.a1} x {fit.a2}"
        told += ", rows shuffled as by the released code of DiffuseKronA" if fit.order == "shuffled" else ""
        forms.append(_Form("kronecker", fit.a1, fit.parameters, told))
    if base is not None and base.size == matrix.size:
        offsets = hadamard_rank(matrix, base, noise)
        if offsets is not None and offsets <= HADAMARD_RANK:
            told = f"the ratio to the base weight has rank {offsets}"
            forms.append(_Form("multiplicative", offsets, offsets * sum(matrix.shape), told))
    return min(forms, key=lambda form: form.parameters)


def _noise(delta: Delta, matrix: NDArray[np.float64], base: NDArray[np.float64] | None) -> float:
    """What rounding of stored values may account for, as a share of the change's norm."""
    import numpy as np

    stored = tensors_in(delta) if not isinstance(delta, Overwrite) or delta.value is None else (delta.value,)
    kinds = [_ROUNDING.get(tensor.dtype, 2.0**-8) for tensor in stored]
    if isinstance(delta, LowRank) or len(kinds) > 1:
        return 2.0**-24  # a product of factors has their structure exactly, whatever they were rounded to
    rounding = max(kinds, default=2.0**-8) * 0.6
    if isinstance(delta, Overwrite) and base is not None:
        rounding *= float(np.linalg.norm(base)) / float(np.linalg.norm(matrix))
    return rounding


def _product_rank(delta: LowRank) -> int:
    """Numerical rank of a product, at the cost of its inner dimension."""
    import numpy as np

    up, down = delta.factors()
    core = np.linalg.qr(up)[1] @ np.linalg.qr(down.T)[1].T
    return numerical_rank(core, 0.0)


def _orthonormal(down: NDArray[np.float64], rounding: float) -> bool:
    import numpy as np

    return bool(np.abs(down @ down.T - np.eye(len(down))).max() <= 4 * rounding + 1e-6)


def _orthogonal_columns(up: NDArray[np.float64], rounding: float) -> bool:
    import numpy as np

    norms = np.linalg.norm(up, axis=0)
    if up.shape[1] < 2 or not norms.all():
        return False
    gram = (up.T @ up) / np.outer(norms, norms)
    return bool(np.abs(gram - np.eye(len(gram))).max() <= 16 * rounding + 1e-5)


def _exchangeable(factors: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> tuple[float, int]:
    """Whether components of one adapter could change places: p-value over all splits into two blocks, and the best.

    Training from a random start treats the components of a layer alike, so that the mean strength of the first s and
    of the others differs by chance only. Two adapters side by side were trained apart, or weighted differently.
    """
    import numpy as np

    sizes = _strengths(factors)
    rank = sizes.shape[1]
    if rank < 2 or len(sizes) < _FEWEST_MERGED:
        return 1.0, 0
    logs = np.log(sizes)
    spread = logs.var(axis=1, ddof=1)
    best, at = 0.0, 0
    for split in range(1, rank):
        difference = logs[:, :split].mean(axis=1) - logs[:, split:].mean(axis=1)
        deviation = math.sqrt(float(spread.sum()) * (1 / split + 1 / (rank - split)))
        z = abs(float(difference.sum())) / deviation if deviation else 0.0
        best, at = (z, split) if z > best else (best, at)
    return min(1.0, (rank - 1) * math.erfc(best / math.sqrt(2))), at


def _strengths(factors: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> NDArray[np.float64]:
    """Norm of each component's product (layers, r), for layers of the commonest rank whose components are all there."""
    import numpy as np

    ranks = Counter(up.shape[1] for up, _ in factors)
    rank = max(ranks, key=lambda r: ranks[r])
    sizes = np.array(
        [np.linalg.norm(up, axis=0) * np.linalg.norm(down, axis=1) for up, down in factors if up.shape[1] == rank]
    )
    kept: NDArray[np.float64] = sizes[(sizes > 0).all(axis=1)]
    return kept


def _sorted(factors: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> bool:
    """Whether three components or more fall in strength in nearly every layer, which blocks of equals would not."""
    import numpy as np

    sizes = _strengths(factors)
    return sizes.shape[1] > 2 and float((np.diff(sizes, axis=1) < 0).all(axis=1).mean()) >= _AGREE


def _shared(factors: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> bool:
    import numpy as np

    groups: dict[tuple[int, ...], list[NDArray[np.float64]]] = {}
    for _, down in factors:
        groups.setdefault(down.shape, []).append(down)
    if any(len(group) < 2 for group in groups.values()):
        return False
    return all(np.allclose(one, group[0], rtol=1e-2, atol=1e-6) for group in groups.values() for one in group)


def _is_smooth(stack: NDArray[np.float32]) -> bool:
    """Whether neighbouring rows are alike beyond what any order of the rows would give, one in a thousand."""
    import numpy as np

    rows = stack.astype(np.float64) - stack.mean(axis=0)
    norms = np.linalg.norm(rows, axis=1)
    if not norms.all():
        return False
    cosines = (rows @ rows.T) / np.outer(norms, norms)
    rng, count = np.random.default_rng(0), len(rows)
    orders = np.stack([np.arange(count), *(rng.permutation(count) for _ in range(1999))])
    steps = cosines[orders[:, :-1], orders[:, 1:]].mean(axis=1)
    return bool((steps >= steps[0] - 1e-12).mean() <= 0.002)


def _is_norm(path: str, delta: Delta) -> bool:
    vectors = isinstance(delta, Overwrite) and len(delta.shape) <= 1
    return vectors and "norm" in path


def _is_the_bases(delta: Delta, base: BaseWeight | None, component: str, path: str) -> bool:
    """Whether new parameters are the old ones, as most of a whole model are; only weights are compared."""
    import numpy as np

    if not isinstance(delta, Overwrite) or base is None:
        return False
    known = base(component, path)
    if delta.value is None or known is None or known.shape != delta.value.shape:
        return False
    return bool(np.array_equal(delta.value.array(), np.asarray(known, np.float32)))


def _weight(base: BaseWeight | None, component: str, path: str) -> NDArray[np.float64] | None:
    import numpy as np

    found = base(component, path) if base is not None else None
    return None if found is None else np.asarray(found, np.float64)


def _sample(modules: Sequence[tuple[str, str, Delta]]) -> list[tuple[str, str, Delta]]:
    """At most twelve, spread over the model, those too large to decompose left out if there are others."""
    fitting = [m for m in modules if math.prod(m[2].shape) <= _LARGEST and len(m[2].shape) > 1] or list(modules)
    stride = max(1, len(fitting) // _SAMPLED)
    return fitting[::stride][:_SAMPLED]
