"""Observations of the file stage as results and findings of the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, cast

from auditor.probes.static.observe import SEVERITIES, Observation, worst
from auditor.probes.static.rules import Rule
from reports.model import Finding, Outcome, Reference, Result, Severity

__all__ = ["finding_of", "references", "tell"]

_GATE = SEVERITIES.index("medium")


def finding_of(observed: Observation) -> Finding:
    """The finding that an observation is reported as."""
    rule = observed.rule
    return Finding(
        rule_id=rule.id,
        fingerprint=observed.fingerprint,
        severity=Severity(observed.severity),
        confidence=cast(Literal["low", "medium", "high"], rule.confidence),
        title=rule.title,
        why=f"{rule.why} Found: {'; '.join(observed.details)}.",
        remediation=rule.remediation,
        locations=(observed.location,),
        refs=references(rule),
    )


def references(*rules: Rule) -> tuple[Reference, ...]:
    """Taxonomy entries of some rules, without repeats."""
    entries = dict.fromkeys(entry for rule in rules for entry in rule.refs)
    return tuple(Reference(scheme=e.scheme, edition=e.edition, id=e.id) for e in entries)


def tell(
    probe: str, version: int, null: str, files: int, observed: Sequence[Observation], seen: dict[str, object]
) -> Iterator[Result | Finding]:
    """One result that counts what is at or above ``medium``, then the findings.

    Args:
        probe: id of the probe.
        version: of the probe.
        null: its null hypothesis.
        files: files looked at; with 0 the result is inconclusive, never a pass.
        observed: what was found.
        seen: further facts for the result's details, JSON.
    """
    grave = sum(SEVERITIES.index(each.severity) >= _GATE for each in observed)
    outcome = Outcome.INCONCLUSIVE if files == 0 else Outcome.FAIL if grave else Outcome.PASS
    reason = "nothing was there to look at" if files == 0 else ""
    if grave:
        reason = f"{observed[0].rule.title}: {observed[0].details[0]}"
    yield Result(
        probe=probe,
        version=version,
        outcome=outcome,
        reason=reason,
        # A rule over bytes has no sampling error: what it says is exact, so there is nothing to calibrate.
        calibrated=True,
        null=null,
        statistic="rules broken at severity medium or above",
        value=float(grave),
        n=files,
        unit="rules",
        details={"worst": worst(observed), "rules": sorted({each.rule.id for each in observed}), **seen},
    )
    for each in observed:
        yield finding_of(each)
