"""From an identified file to what a person should know of it: pure, and free of torch, scipy and pydantic."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from auditor.probes.static import rules
from auditor.probes.static.rules import Rule, rule_for
from auditor.text import inert

if TYPE_CHECKING:
    from auditor.artifact.identify import Identified
    from auditor.artifact.problems import Problem

__all__ = ["SEVERITIES", "Observation", "claim_observations", "fingerprint", "safety_observations", "worst"]

SEVERITIES = ("info", "low", "medium", "high", "critical")
"""From harmless to worst; ``info`` is a note, never a finding."""

_SHOWN = 12
_CLAIM_RULES = frozenset(
    {"PMA-CLAIM-001", "PMA-CLAIM-002", "PMA-CLAIM-003", "PMA-CLAIM-004", "PMA-CLAIM-005"}
)


@dataclass(frozen=True, slots=True)
class Observation:
    """One rule that a file breaks.

    Attributes:
        rule: which one.
        severity: of :data:`SEVERITIES`.
        details: what exactly, printable sentences.
        fingerprint: equal for the same fault in re-labelled copies of the same tensors, hexadecimal SHA-256.
        location: the file or folder, made inert.
    """

    rule: Rule
    severity: str
    details: tuple[str, ...]
    fingerprint: str
    location: str


def safety_observations(artifact: Identified) -> tuple[Observation, ...]:
    """What is wrong with the file itself: pickles, containers, code, hostile text, bad values."""
    found = [*_pickle_observations(artifact)]
    if artifact.nonfinite:
        told = f"{artifact.nonfinite} values are NaN or infinite"
        found.append(_observation(artifact, rules.NON_FINITE, "high", (told,), "nonfinite"))
    told_already = {
        p for record in artifact.files if record.refused for p in record.problems if _stopped_by(p)
    }
    rest = (
        p for p in artifact.all_problems if rule_for(p.code).id not in _CLAIM_RULES and p not in told_already
    )
    found += _grouped(artifact, rest)
    return _worst_first(found)


def claim_observations(artifact: Identified) -> tuple[Observation, ...]:
    """Where metadata contradicts tensors, or cannot be read or typed."""
    found: list[Observation] = []
    for check in artifact.checks:
        if check.agrees is False:
            about_hash = "hash" in check.claim
            rule = rules.HASH_CONTRADICTED if about_hash else rules.CONTRADICTED
            # A wrong alpha or dtype misleads; another family or other tensors are another model.
            grave = about_hash or check.claim in _FAMILY_CLAIMS
            note = f" ({check.note})" if check.note else ""
            measured = inert(check.measured, 80)
            told = f"{inert(check.claim)} says {check.claimed}, measured {measured}{inert(note, 200)}"
            found.append(_observation(artifact, rule, "medium" if grave else "low", (told,), check.claim))
    found += _grouped(artifact, (p for p in artifact.all_problems if rule_for(p.code).id in _CLAIM_RULES))
    return _worst_first(found)


_FAMILY_CLAIMS = frozenset(
    {
        "ss_base_model_version",
        "ss_sd_model_name",
        "modelspec.architecture",
        "adapter_config.base_model_name_or_path",
        "card.base_model",
    }
)


def worst(observations: Iterable[Observation]) -> str:
    """The worst severity of all, or ``info`` if there is none."""
    return max((each.severity for each in observations), key=SEVERITIES.index, default="info")


def fingerprint(rule_id: str, tensors: str, locus: str) -> str:
    """SHA-256 over rule, hash of the tensors and place, in hexadecimal."""
    return hashlib.sha256("\0".join((rule_id, tensors, locus)).encode("utf-8", "surrogatepass")).hexdigest()


def _pickle_observations(artifact: Identified) -> Iterator[Observation]:
    for record in artifact.files:
        if record.pickle is None:
            continue
        verdict = record.pickle.verdict
        where = f"pickle:{record.sha256}" if len(artifact.files) > 1 else "pickle"
        bad = [each for each in record.pickle.globals if not each.allowed]
        if bad:
            names = dict.fromkeys(inert(f"{each.module}.{each.name}", 100) for each in bad)
            details = tuple(f"refers to {name}" for name in [*names][:_SHOWN])
            yield _observation(artifact, rules.PICKLE_GLOBALS, "critical", details, where)
        elif verdict == "disallowed":
            note = "it does what no weight file does; see the problems of the file"
            yield _observation(artifact, rules.PICKLE_GLOBALS, "critical", (note,), where)
        if verdict in ("broken", "limit"):
            told = tuple(p.detail for p in record.problems if _stopped_by(p)) or (
                f"the verdict is {verdict}",
            )
            yield _observation(artifact, rules.PICKLE_UNFINISHED, "high", told[:_SHOWN], where)
        if verdict == "allowed" and record.pickle.pickles:
            note = (
                "all references are on the allow-list; its tensors are read by converting them, never by "
                "unpickling"
            )
            yield _observation(artifact, rules.PICKLE_WEIGHTS, "low", (note,), where)


def _stopped_by(problem: Problem) -> bool:
    return problem.code == "pickle.broken" or problem.code.startswith("limit.")


def _grouped(artifact: Identified, problems: Iterable[Problem]) -> list[Observation]:
    """One observation for each problem code; notes of severity ``info`` are left out."""
    by_code: dict[str, list[Problem]] = {}
    for each in problems:
        # Markup and configs are text as well: no loader opens a model as text.
        if each.severity != "info" and not each.detail.startswith("also reads as text:"):
            by_code.setdefault(each.code, []).append(each)
    return [
        _observation(
            artifact,
            rule_for(code),
            max((p.severity for p in group), key=SEVERITIES.index),
            tuple(dict.fromkeys(p.detail for p in group))[:_SHOWN],
            code,
        )
        for code, group in by_code.items()
    ]


def _observation(
    artifact: Identified, rule: Rule, severity: str, details: tuple[str, ...], locus: str
) -> Observation:
    mark = fingerprint(rule.id, artifact.tensor_hash or artifact.sha256, locus)
    return Observation(rule, severity, details, mark, inert(artifact.path.name or str(artifact.path), 200))


def _worst_first(found: list[Observation]) -> tuple[Observation, ...]:
    return tuple(
        sorted(found, key=lambda each: (-SEVERITIES.index(each.severity), each.rule.id, each.fingerprint))
    )
