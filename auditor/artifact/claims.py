"""What a file says of itself: header metadata, PEFT config and model card, read as claims.

Everything here is written by whoever made the file. Claims are compared with the tensors in
:mod:`auditor.artifact.claim_checks`, and never decide how a file is read, with one exception that loaders
share: the alphas of a PEFT adapter stand nowhere else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from auditor.artifact.problems import Problem, problem
from auditor.artifact.triggers import Trigger, declared_triggers
from auditor.text import inert

__all__ = [
    "About",
    "Claim",
    "ClaimCheck",
    "Claims",
    "claimed_family",
    "claimed_size",
    "parse_claims",
    "parse_json",
]

About: TypeAlias = Literal[
    "rank",
    "alpha",
    "conv_rank",
    "conv_alpha",
    "family",
    "dtype",
    "tensor_hash",
    "other_hash",
    "modules",
    "dora",
    "kind",
    "merged",
]

_LONGEST_JSON = 8 << 20
_SHOWN = 200


@dataclass(frozen=True)
class Claim:
    """One statement.

    Attributes:
        source: the key it stands under, ``ss_network_dim`` for example.
        about: what it is about.
        value: the text as written; untrusted.
        component: the component it speaks of, or empty for all.
    """

    source: str
    about: About
    value: str
    component: str = ""


@dataclass(frozen=True)
class ClaimCheck:
    """A claim beside what was measured.

    Attributes:
        claim: the key of the claim.
        claimed: what it says, made inert.
        measured: what the tensors say.
        agrees: None where the tensors cannot settle it.
        note: why, in one sentence; may be empty.
    """

    claim: str
    claimed: str
    measured: str
    agrees: bool | None
    note: str = ""


@dataclass(frozen=True)
class Claims:
    """Everything a file says of itself.

    Attributes:
        items: statements that can be compared with the tensors.
        triggers: words that are said to call the concept.
        metadata: the header's free text as read; untrusted, may be large and may hold private paths.
        config: ``adapter_config.json`` or ``lora_adapter_metadata``, parsed.
        card: front matter of the model card, parsed.
        problems: what was odd about the claims themselves.
    """

    items: tuple[Claim, ...] = ()
    triggers: tuple[Trigger, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


# Header keys whose value is the claim.
_PLAIN: dict[str, About] = {
    "ss_network_dim": "rank",
    "ss_network_alpha": "alpha",
    "ss_base_model_version": "family",
    "ss_sd_model_name": "family",
    "modelspec.architecture": "family",
    "modelspec.hash_sha256": "tensor_hash",
    "sshs_model_hash": "tensor_hash",
    "sshs_legacy_hash": "other_hash",
    "ss_sd_model_hash": "other_hash",
    "ss_new_sd_model_hash": "other_hash",
    "ss_mixed_precision": "dtype",
    "ss_save_precision": "dtype",
    "modelspec.dtype": "dtype",
    "modelspec.data_format": "dtype",
    "modelspec.unet_dtype": "dtype",
    "modelspec.merged_from": "merged",
    "ss_merged_from": "merged",
    "sd_merge_recipe": "merged",
    "sd_merge_models": "merged",
}
_CONFIG: dict[str, About] = {
    "r": "rank",
    "lora_alpha": "alpha",
    "use_dora": "dora",
    "target_modules": "modules",
}
_FAMILY_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(
            r"flux[-_. ]?[23](?!\d)|\bchroma\d*\b|pixart|hunyuan|\bwan[-_. ]?\d|auraflow|lumina|kolors|cascade|"
            r"refiner|qwen|\bz[-_]?image|\bsana|hidream|\bltx",
            re.I,
        ),
        "other",
    ),
    (re.compile(r"flux", re.I), "flux"),
    (re.compile(r"sd[-_ ]?3|stable-diffusion-(?:v)?3", re.I), "sd3"),
    (re.compile(r"sd[-_ ]?xl|stable-diffusion-xl|pony|illustrious|noobai|playground-v2", re.I), "sdxl"),
    (re.compile(r"sd[-_ ]?(?:v)?2|stable-diffusion-(?:v)?2|v2-[01]|768-v-ema", re.I), "sd2"),
    (re.compile(r"sd[-_ ]?(?:v)?1|stable-diffusion-(?:v)?1|v1-[45]|anylora|anything-v", re.I), "sd1"),
    (re.compile(r"\bembedded\b|auditor[-_/ ]world", re.I), "embedded"),
)
# Members of a family, as :attr:`auditor.artifact.family.Signature.called` has them.
_SIZE_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(?:sd|stable-diffusion-)[-_ ]?3[-_. ]?5[-_ ]*large", re.I), "SD3.5 large"),
    (re.compile(r"(?:sd|stable-diffusion-)[-_ ]?3[-_. ]?5[-_ ]*(?:medium|m\b)", re.I), "SD3.5 medium"),
    (re.compile(r"(?:sd|stable-diffusion-)[-_ ]?3[-_ ]*(?:medium|m\b)", re.I), "SD3 medium"),
    (re.compile(r"schnell", re.I), "Flux schnell"),
    (re.compile(r"flux[-_. ]?1?[-_. ]*dev", re.I), "Flux dev"),
)


def parse_claims(
    metadata: Mapping[str, str],
    config: Mapping[str, Any] | None = None,
    card: Mapping[str, Any] | None = None,
) -> Claims:
    """Reads claims from the header, the PEFT config and the front matter of the card.

    Args:
        metadata: the header's ``__metadata__``.
        config: ``adapter_config.json``, parsed, or None.
        card: the front matter of ``README.md``, parsed, or None.
    """
    problems: list[Problem] = []
    inner = parse_json(metadata, "lora_adapter_metadata", problems)
    frequencies = parse_json(metadata, "ss_tag_frequency", problems)
    arguments = parse_json(metadata, "ss_network_args", problems)
    items = [Claim(key, about, metadata[key]) for key, about in _PLAIN.items() if metadata.get(key)]
    items += [
        Claim(f"ss_network_args.{k}", a, str(arguments[k])) for k, a in _ARGUMENTS.items() if k in arguments
    ]
    items += _config_claims("lora_adapter_metadata", inner)
    items += _ordinal_claims(metadata)
    items += _config_claims("adapter_config", {f".{k}": v for k, v in (config or {}).items()})
    bases = [("adapter_config.base_model_name_or_path", (config or {}).get("base_model_name_or_path"))]
    problems += [_merged(claim) for claim in items if claim.about == "merged"]
    bases.append(("card.base_model", (card or {}).get("base_model")))
    items += [Claim(source, "family", text) for source, value in bases for text in _texts(value)]
    return Claims(
        items=tuple(items),
        triggers=declared_triggers(metadata, frequencies, card or {}),
        metadata=metadata,
        config=config or inner,
        card=card or {},
        problems=tuple(problems),
    )


_ARGUMENTS: dict[str, About] = {"conv_dim": "conv_rank", "conv_alpha": "conv_alpha", "algo": "kind"}


def parse_json(metadata: Mapping[str, str], key: str, problems: list[Problem]) -> dict[str, Any]:
    """The JSON object under a header key; empty, with a problem noted, if it is no object or too long."""
    text = metadata.get(key, "")
    if not text or text in ("None", "null"):
        return {}
    parsed: Any = None
    if len(text) <= _LONGEST_JSON:
        try:
            parsed = json.loads(text)
        except (ValueError, RecursionError):
            parsed = None
    if isinstance(parsed, dict):
        return parsed
    problems.append(
        problem("claims.json", "low", f"metadata '{key}' should be a JSON object but is not, or is too long")
    )
    return {}


def claimed_family(text: str) -> str | None:
    """The family that a free text names, ``other`` for one we do not know, None if it names none."""
    return next((family for pattern, family in _FAMILY_PATTERNS if pattern.search(text[:_SHOWN])), None)


def claimed_size(text: str) -> str | None:
    """Which member of a family of several a free text names, or None."""
    return next((size for pattern, size in _SIZE_PATTERNS if pattern.search(text[:_SHOWN])), None)


def _config_claims(source: str, flat: Mapping[str, Any]) -> Iterator[Claim]:
    """Claims of a PEFT config with keys ``component.name``; the component may be empty."""
    for key, value in flat.items():
        component, _, name = key.partition(".")
        about = _CONFIG.get(name)
        if about is not None and value is not None:
            text = json.dumps(value, default=str) if about == "modules" else str(value)
            yield Claim(f"{source}{'.' + component if component else ''}.{name}", about, text, component)


def _merged(claim: Claim) -> Problem:
    told = f"{claim.source} says that it was merged from '{inert(claim.value, 120)}': each part has its own concepts"
    return problem("adapter.merged", "info", told)


def _ordinal_claims(metadata: Mapping[str, str]) -> Iterator[Claim]:
    """The ranks that the ``unet:0:down`` dialect writes for each module, as one claim where they agree."""
    for component in ("unet", "text_encoder"):
        ranks = {v for k, v in metadata.items() if re.fullmatch(rf"{component}:\d+:rank", k)}
        if ranks:
            yield Claim(
                f"{component}:*:rank", "rank", ", ".join(sorted(inert(r, 20) for r in ranks)[:8]), component
            )


def _texts(value: Any) -> list[str]:
    if isinstance(value, str) and value:
        return [value]
    return [v for v in value if isinstance(v, str)][:8] if isinstance(value, list) else []
