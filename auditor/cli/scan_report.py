"""What a scan says of one path, in the shape of :class:`reports.model.AuditReport` but as plain JSON values.

A whole scan takes a fraction of a second; building the typed report would take as long as everything else.
A test holds these dictionaries against the typed model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditor.cli.describe import artifact_record, claim_records
from auditor.errors import EXIT_AUDIT_ERROR, EXIT_NOTHING_AUDITABLE, AuditorError
from auditor.probes.static.observe import (
    SEVERITIES,
    Observation,
    claim_observations,
    safety_observations,
    worst,
)
from auditor.text import inert

if TYPE_CHECKING:
    from auditor.artifact.identify import Identified

__all__ = ["ScanOutcome", "Stamp", "decide", "failed_outcome", "scan_outcome"]

_CHECKS = (("static.file_safety", safety_observations), ("static.claims", claim_observations))
_NOT_TESTED = (
    "A scan reads files and loads no model: backdoors, likeness, leaks and bias were not looked for. "
    "'auditor audit' does that."
)
_BY_SEVERITY = {"critical": "reject", "high": "quarantine", "medium": "review"}


@dataclass(frozen=True)
class Stamp:
    """When and by which release a scan was made: ``created`` in ISO 8601, ``release`` as installed."""

    created: str
    release: str


@dataclass(frozen=True)
class ScanOutcome:
    """One scanned path.

    Attributes:
        report: JSON values in the shape of ``AuditReport``.
        code: exit code this path forces whatever the gate is (2 broken, 4 unsupported), or None.
        sentence: for stderr; empty if there is nothing to say.
    """

    report: dict[str, Any]
    code: int | None = None
    sentence: str = ""

    @property
    def decision(self) -> str:
        """What the report decides."""
        return str(self.report["verdict"]["decision"])


def scan_outcome(artifact: Identified, stamp: Stamp) -> ScanOutcome:
    """Judges one identified file or folder.

    Args:
        artifact: open; it is not closed.
        stamp: time and release for the report.
    """
    observed = {probe: check(artifact) for probe, check in _CHECKS}
    every = [each for found in observed.values() for each in found]
    unsupported = artifact.kind == "unsupported"
    decision, reasons = decide(every, artifact.kind, artifact.unsupported)
    results = [_result(probe, found, _looked(probe, artifact)) for probe, found in observed.items()]
    subject = {
        "artifacts": [artifact_record(artifact)],
        "base": None,
        "claims": claim_records(artifact),
        "coverage": None,
    }
    report = _report(
        stamp, artifact.sha256, subject, results, [_finding(each) for each in every], decision, reasons
    )
    code = EXIT_NOTHING_AUDITABLE if unsupported and decision == "inconclusive" else None
    return ScanOutcome(report, code, artifact.unsupported if unsupported else "")


def failed_outcome(path: Path, error: AuditorError, stamp: Stamp) -> ScanOutcome:
    """The outcome for a path that could not be examined: never a pass."""
    unsupported = error.exit_code == EXIT_NOTHING_AUDITABLE
    name = inert(path.name, 100)
    told = str(error) if name in str(error) else f"'{name}': {error}"
    kind = "unsupported" if unsupported else "broken"
    size = path.stat().st_size if path.is_file() else 0
    record = {
        "path": inert(str(path), 300),
        "sha256": "",
        "size": size,
        "kind": kind,
        "tensor_hash": "",
        "dialect": "",
        "family": "",
        "family_evidence": [],
        "rank": "",
        "modules": 0,
        "dtype": "",
        "notes": [told],
    }
    subject = {"artifacts": [record], "base": None, "claims": [], "coverage": None}
    status = "success" if unsupported else "error"
    report = _report(stamp, str(path), subject, [], [], "inconclusive", [told], status)
    return ScanOutcome(report, EXIT_NOTHING_AUDITABLE if unsupported else EXIT_AUDIT_ERROR, told)


def decide(observed: Sequence[Observation], kind: str, unsupported: str = "") -> tuple[str, list[str]]:
    """The decision of the file stage alone and its reasons, strongest first.

    ``reject`` for a critical observation, ``quarantine`` for a high one, ``review`` for a medium one. Nothing
    at all is ``accept_with_conditions`` and not ``accept``: behaviour was not looked at.
    """
    severity = worst(observed)
    grave = sorted(observed, key=lambda each: -SEVERITIES.index(each.severity))
    if severity in _BY_SEVERITY:
        shown = [each for each in grave if each.severity in _BY_SEVERITY]
        return _BY_SEVERITY[severity], [f"{each.rule.title}: {each.details[0]}" for each in shown]
    if kind == "unsupported":
        return "inconclusive", [unsupported or "the kind of this file is not supported"]
    if kind == "refused":
        return "quarantine", ["the file was refused and not examined to its end"]
    if kind == "weights":
        return "accept_with_conditions", [
            "The file is safe to open; what it is and what its label claims was not looked at."
        ]
    return "accept_with_conditions", [
        "The file is safe to open and its claims hold; what the model does was not tested."
    ]


def _looked(probe: str, artifact: Identified) -> bool:
    """Whether there was anything to look at: files for one check, claims beside tensors for the other."""
    return bool(artifact.files) if probe == "static.file_safety" else artifact.kind == "adapter"


def _result(probe: str, observed: Sequence[Observation], looked: bool) -> dict[str, Any]:
    grave = [each for each in observed if each.severity in _BY_SEVERITY]
    outcome = "inconclusive" if not looked else "fail" if grave else "pass"
    return {
        "probe": probe,
        "version": 1,
        "outcome": outcome,
        "calibrated": True,
        "reason": f"{grave[0].rule.title}: {grave[0].details[0]}" if grave else "",
        "statistic": "rules broken at severity medium or above",
        "value": float(len(grave)),
        "n": int(looked),
        "unit": "rules",
        "details": {"worst": worst(observed), "rules": sorted({each.rule.id for each in observed})},
    }


def _finding(observed: Observation) -> dict[str, Any]:
    rule = observed.rule
    return {
        "rule_id": rule.id,
        "fingerprint": observed.fingerprint,
        "severity": observed.severity,
        "confidence": rule.confidence,
        "title": rule.title,
        "why": f"{rule.why} Found: {'; '.join(observed.details)}.",
        "remediation": rule.remediation,
        "locations": [observed.location],
        "refs": [{"scheme": r.scheme, "edition": r.edition, "id": r.id} for r in rule.refs],
    }


def _report(
    stamp: Stamp,
    identity: str,
    subject: dict[str, Any],
    results: list[dict[str, Any]],
    findings: list[dict[str, Any]],
    decision: str,
    reasons: list[str],
    status: str = "success",
) -> dict[str, Any]:
    name = hashlib.sha256(
        f"scan\0{stamp.release}\0{identity}".encode("utf-8", "surrogateescape")
    ).hexdigest()[:16]
    return {
        "schema_version": "1.1",
        "id": f"scan-{name}",
        "created": stamp.created,
        "status": status,
        "tool": {"name": "personalized-model-auditor", "version": stamp.release, "device": "none"},
        "subject": subject,
        "plan": {
            "policy": "scan",
            "alpha": 0.01,
            "seed": 0,
            "probes": [{"id": probe, "version": 1} for probe, _ in _CHECKS],
        },
        "results": results,
        "findings": findings,
        "verdict": {"decision": decision, "reasons": reasons},
        "limitations": [{"topic": "behaviour", "text": _NOT_TESTED}],
    }
