"""Claims against tensors: each statement beside what was measured, and whether the two agree."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from auditor.artifact.adapter import (
    Adapter,
    Delta,
    Dense,
    Factored,
    GeneralisedLowRank,
    Hadamard,
    Kronecker,
    LowRank,
    Overwrite,
    Rotation,
    Scaled,
)
from auditor.artifact.claims import Claim, ClaimCheck, Claims, claimed_family, claimed_size
from auditor.artifact.deltas import Rows
from auditor.artifact.dialects.diffusers import pattern_value
from auditor.artifact.family import title_of
from auditor.text import inert

__all__ = ["check_claims"]

_SHOWN = 80
_ALGORITHMS: Mapping[str, type[Delta]] = {
    "lora": LowRank, "locon": LowRank, "dylora": LowRank, "loha": Hadamard, "lokr": Kronecker, "full": Dense,
    "ia3": Scaled, "diag-oft": Rotation, "boft": Rotation, "glora": GeneralisedLowRank,
}  # fmt: skip
_KERNELS = ("conv", "conv1", "conv2", "conv_in", "conv_out")
_DTYPES = {"fp16": "F16", "float16": "F16", "half": "F16", "bf16": "BF16", "bfloat16": "BF16", "fp32": "F32"}
_DTYPES |= {"float": "F32", "float32": "F32", "no": "F32", "f16": "F16", "f32": "F32"}
_HEX = re.compile(r"(?:0x)?(?P<digits>[0-9a-fA-F]{6,64})")


def check_claims(adapter: Adapter, data_sha256: str | None = None) -> tuple[ClaimCheck, ...]:
    """Compares every claim with the tensors.

    Args:
        adapter: the adapter with its claims.
        data_sha256: SHA-256 of all bytes behind the header, in hexadecimal; None if it was not computed. Both
            ``modelspec.hash_sha256`` ("a hash of all tensor content, ie excluding the header section") and
            kohya's ``sshs_model_hash`` are defined as that.

    Returns:
        One check for each claim, in the order of the claims.
    """
    return tuple(check for claim in adapter.claims.items for check in _check(claim, adapter, data_sha256))


def _check(claim: Claim, adapter: Adapter, data_sha256: str | None) -> Iterator[ClaimCheck]:
    if claim.about in ("rank", "conv_rank"):
        yield _rank(claim, adapter)
    elif claim.about in ("alpha", "conv_alpha"):
        yield _alpha(claim, adapter)
    elif claim.about == "family":
        yield _family(claim, adapter)
        if claim.source == "modelspec.architecture":
            yield from _kind(claim, adapter)
    elif claim.about == "dtype":
        yield _dtype(claim, adapter)
    elif claim.about == "tensor_hash":
        yield _hash(claim, data_sha256)
    elif claim.about == "dora":
        yield _dora(claim, adapter)
    elif claim.about == "modules":
        yield _modules(claim, adapter)
    elif claim.about == "kind":
        yield _algorithm(claim, adapter)
    elif claim.about == "merged":
        # Factors of two adapters side by side are factors like any others.
        yield _result(
            claim, "not in the tensors", None, "a merge leaves nothing in the factors that shows it"
        )
    else:
        note = (
            "the hash of another file, or one that depends on a header that is no longer there; not checked"
        )
        yield _result(claim, "unknown", None, note)


def _rank(claim: Claim, adapter: Adapter) -> ClaimCheck:
    chosen = _low_rank(adapter, claim)
    measured = _counted([delta.rank for _, delta in chosen])
    wanted = _number(claim.value)
    if wanted is None or not chosen:
        note = "no single number is claimed" if chosen else "there is no low-rank change it could speak of"
        return _result(claim, measured, None, note)
    patterns = _config_of(adapter.claims, claim).get("rank_pattern")
    wrong = [path for path, delta in chosen if pattern_value(patterns, path, wanted) != delta.rank]
    return _result(claim, measured, not wrong, f"{len(wrong)} modules have another rank" if wrong else "")


def _alpha(claim: Claim, adapter: Adapter) -> ClaimCheck:
    chosen = _low_rank(adapter, claim)
    if adapter.dialect in ("peft", "diffusers", "original") and not _has_alpha_tensors(adapter):
        note = "no tensor holds an alpha: loaders obey the claim itself"
        return _result(claim, _counted([d.alpha for _, d in chosen]), None, note)
    measured = _counted([delta.alpha for _, delta in chosen])
    wanted = _number(claim.value)
    if wanted is None or not chosen:
        return _result(
            claim, measured, None, "no single number is claimed" if chosen else "there is nothing to scale"
        )
    if all(delta.alpha is None for _, delta in chosen):
        return _result(claim, "none stored", None, "without a stored alpha loaders use a scale of 1")
    wrong = sum(
        delta.alpha is None or abs(delta.alpha - wanted) > 1e-3 * max(1.0, abs(wanted)) for _, delta in chosen
    )
    return _result(claim, measured, not wrong, f"{wrong} modules have another alpha" if wrong else "")


def _family(claim: Claim, adapter: Adapter) -> ClaimCheck:
    measured = title_of(adapter.family)
    wanted = claimed_family(claim.value)
    if wanted is None:
        return _result(claim, measured, None, "the text names no family we know")
    if adapter.family in ("other", "given"):
        return _result(claim, measured, None, "the shapes fit no known family")
    if wanted == adapter.family:
        return _size(claim, measured, adapter.family_match.sizes)
    if wanted in adapter.family_match.alternatives:
        return _result(claim, f"{measured} or {title_of(wanted)}", True, "the shapes fit both")
    return _result(claim, measured, False, f"the shapes are those of {measured}")


def _size(claim: Claim, measured: str, sizes: tuple[str, ...]) -> ClaimCheck:
    """The family is the one that is claimed; a claim of one of its members is held against those that fit."""
    wanted = claimed_size(claim.value)
    if wanted is None or len(sizes) == 0:
        return _result(claim, measured, True)
    if wanted not in sizes:
        return _result(claim, " or ".join(sizes), False, f"the shapes are not those of {wanted}")
    return _result(claim, " or ".join(sizes), True)


def _kind(claim: Claim, adapter: Adapter) -> Iterator[ClaimCheck]:
    text = claim.value.lower()
    measured = "token vectors" if not adapter.components else "weight changes"
    if "textual-inversion" in text:
        yield _result(
            claim,
            measured,
            not adapter.components,
            "" if not adapter.components else "it also changes weights",
        )
    elif "lora" in text:
        yield _result(
            claim, measured, bool(adapter.components), "" if adapter.components else "it changes no weights"
        )


def _dtype(claim: Claim, adapter: Adapter) -> ClaimCheck:
    measured = ", ".join(adapter.dtypes)
    wanted = _DTYPES.get(claim.value.strip().lower())
    if claim.source == "ss_mixed_precision" or wanted is None:
        note = (
            "the precision of training, which need not be that of the file"
            if wanted
            else "no known type is named"
        )
        return _result(claim, measured, None, note)
    return _result(claim, measured, adapter.dtypes == (wanted,))


def _hash(claim: Claim, data_sha256: str | None) -> ClaimCheck:
    if data_sha256 is None:
        return _result(claim, "unknown", None, "the hash of the data section was not computed")
    found = _HEX.fullmatch(claim.value.strip())
    if found is None:
        return _result(claim, data_sha256, False, "what is claimed is no SHA-256")
    agrees = data_sha256.startswith(found["digits"].lower())
    note = (
        ""
        if agrees
        else "the tensors were changed after the hash was written, or it was copied from another file"
    )
    return _result(claim, data_sha256, agrees, note)


def _dora(claim: Claim, adapter: Adapter) -> ClaimCheck:
    with_magnitude = any(d.magnitude is not None for _, d in _low_rank(adapter, claim))
    measured = "magnitudes stored" if with_magnitude else "no magnitudes stored"
    return _result(claim, measured, (claim.value == "True") == with_magnitude)


def _algorithm(claim: Claim, adapter: Adapter) -> ClaimCheck:
    """LyCORIS' name of the algorithm; presets give some layers another one, so one change of the kind is enough."""
    changes = (delta.whole if isinstance(delta, Rows) else delta for _, _, delta in adapter.modules())
    found = Counter(type(change) for change in changes)
    measured = ", ".join(f"{kind.__name__} ({count} modules)" for kind, count in found.most_common())
    wanted = _ALGORITHMS.get(claim.value.strip().lower())
    if wanted is None:
        return _result(claim, measured, None, "no algorithm we know is named")
    return _result(claim, measured, wanted in found, "" if wanted in found else "no change is of that kind")


def _modules(claim: Claim, adapter: Adapter) -> ClaimCheck:
    changed = [
        p for c, p, d in adapter.modules() if claim.component in ("", c) and not isinstance(d, Overwrite)
    ]
    try:
        named = json.loads(claim.value)
    except (ValueError, RecursionError):
        named = None
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        return _result(claim, f"{len(changed)} modules", None, "a pattern, which is not run")
    ends = tuple(f".{name}" for name in named)
    beyond = [p for p in changed if not f".{p}".endswith(ends)]
    note = (
        f"{len(beyond)} changed modules are not named, {inert(beyond[0], _SHOWN)} for example"
        if beyond
        else ""
    )
    return _result(claim, f"{len(changed)} modules", not beyond, note)


def _low_rank(adapter: Adapter, claim: Claim) -> list[tuple[str, Factored]]:
    """The low-rank changes a claim speaks of; k x k convolutions are apart if a claim of their own exists."""
    split = any(other.about in ("conv_rank", "conv_alpha") for other in adapter.claims.items)
    convolution = claim.about in ("conv_rank", "conv_alpha")
    return [
        (path, delta)
        for component, path, delta in adapter.modules()
        if isinstance(delta, Factored)
        and delta.rank is not None
        and claim.component in ("", component)
        and (not split or convolution == _has_kernel(path, delta))
    ]


def _has_kernel(path: str, delta: Factored) -> bool:
    # Where the kernel is stored flattened, only the name of the module tells.
    return delta.shape[2:] not in ((), (1, 1)) or path.rpartition(".")[2] in _KERNELS


def _has_alpha_tensors(adapter: Adapter) -> bool:
    deltas = [d for _, _, d in adapter.modules() if isinstance(d, Factored)]
    return any(name.endswith(".alpha") for name in (deltas[0].tensors[0].source.specs if deltas else ()))


def _config_of(claims: Claims, claim: Claim) -> Mapping[str, Any]:
    prefix = f"{claim.component}." if claim.component else ""
    return {key[len(prefix) :]: value for key, value in claims.config.items() if key.startswith(prefix)}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _counted(values: list[Any]) -> str:
    kinds = sorted(set(values), key=lambda v: (v is None, v if v is not None else 0))
    if len(kinds) == 1:
        return _plain(kinds[0])
    return ", ".join(f"{_plain(kind)} ({values.count(kind)} modules)" for kind in kinds[:8])


def _plain(value: Any) -> str:
    return "none" if value is None else f"{value:g}"


def _result(claim: Claim, measured: str, agrees: bool | None, note: str = "") -> ClaimCheck:
    return ClaimCheck(claim.source, inert(claim.value, _SHOWN), measured, agrees, note)
