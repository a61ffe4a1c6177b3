"""Waivers: which findings somebody has decided to live with, and which attempts to do so come to nothing.

Pure: the day is the report's own, never the clock's, so that a run that is read or resumed later says the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import date
from fnmatch import fnmatchcase

from auditor.engine.ports import Waived
from auditor.policy.rules import Rules, WaiverRule
from auditor.text import inert
from reports.model import Finding, Limitation, Severity, Waiver

__all__ = ["day_of", "is_active", "is_broad", "matches", "named", "waive"]

SEVERITIES = tuple(Severity)
TOPIC = "unused waivers"


def waive(rules: Rules, findings: Sequence[Finding], *, artifacts: Sequence[str], created: str) -> Waived:
    """Marks the findings that an active waiver covers.

    Of several that cover one finding, the one that holds longest is named. A finding graver than the policy's
    ``waivable_up_to`` is never marked.

    Args:
        rules: the policy with its waivers.
        findings: all of them, in any order; kept in that order.
        artifacts: SHA-256 of every audited artifact.
        created: when the audit began, ISO 8601; only its day counts. If it names no day, nothing is active.

    Returns:
        The findings, one remark for each attempt that was refused or came too late, and one limitation for
        each waiver that no finding matches.
    """
    today = day_of(created)
    marked: list[Finding] = []
    remarks: list[str] = []
    used: set[WaiverRule] = set()
    for finding in findings:
        matching = [waiver for waiver in rules.waivers if matches(waiver, finding, artifacts)]
        used.update(matching)
        allowed = _may_be_waived(rules, finding.severity)
        active = [waiver for waiver in matching if is_active(waiver, today)] if allowed else []
        if active:
            longest = max(active, key=lambda waiver: waiver.expires)
            marked.append(finding.model_copy(update={"waiver": _shown(longest)}))
            continue
        marked.append(finding)
        remarks += _in_vain(rules, finding, matching, allowed)
    unused = [waiver for waiver in rules.waivers if waiver not in used]
    return Waived(
        tuple(marked), tuple(dict.fromkeys(remarks)), tuple(_unmatched(unused, today, len(artifacts)))
    )


def matches(waiver: WaiverRule, finding: Finding, artifacts: Collection[str]) -> bool:
    """Whether a waiver speaks of a finding, be it active or not.

    A report does not say which of several artifacts a finding came from. There, a waiver that names an
    artifact also has to name the fingerprint.
    """
    if not fnmatchcase(finding.rule_id, waiver.rule):
        return False
    if waiver.fingerprint is not None and waiver.fingerprint != finding.fingerprint:
        return False
    if waiver.artifact is None:
        return True
    return waiver.artifact in artifacts and (len(artifacts) == 1 or waiver.fingerprint is not None)


def is_active(waiver: WaiverRule, today: date | None) -> bool:
    """Whether it holds on a day; on no known day nothing does."""
    return today is not None and today <= waiver.expires


def is_broad(waiver: WaiverRule) -> bool:
    """Whether it covers whatever artifact the rule is ever broken by."""
    return waiver.fingerprint is None and waiver.artifact is None


def day_of(created: str) -> date | None:
    """The day of an ISO 8601 date and time; None if there is none."""
    try:
        return date.fromisoformat(created[:10])
    except ValueError:
        return None


def named(waiver: WaiverRule) -> str:
    """A waiver by its owner and rule, inert."""
    return f"{inert(waiver.owner, 60)}'s waiver of {inert(waiver.rule, 60)}"


def _may_be_waived(rules: Rules, severity: Severity) -> bool:
    limit = rules.waivable_up_to
    return limit is not None and SEVERITIES.index(severity) <= SEVERITIES.index(limit)


def _shown(waiver: WaiverRule) -> Waiver:
    return Waiver(
        rule=waiver.rule, owner=waiver.owner, reason=waiver.reason, expires=waiver.expires.isoformat()
    )


def _in_vain(rules: Rules, finding: Finding, matching: Sequence[WaiverRule], allowed: bool) -> Iterator[str]:
    limit = rules.waivable_up_to
    for waiver in matching:
        if allowed:
            yield f"{named(waiver)} expired on {waiver.expires.isoformat()} and does nothing: the finding decides"
        else:
            most = (
                "lets no finding be waived"
                if limit is None
                else f"lets findings be waived up to {limit.value}"
            )
            yield f"{named(waiver)} was refused: the finding is {finding.severity.value}, and the policy {most}"


def _unmatched(waivers: Sequence[WaiverRule], today: date | None, artifacts: int) -> Iterator[Limitation]:
    for waiver in waivers:
        until = waiver.expires.isoformat()
        held = f"holds until {until}" if is_active(waiver, today) else f"expired on {until}"
        why = ""
        if waiver.artifact is not None and waiver.fingerprint is None and artifacts > 1:
            why = "; among several artifacts, a waiver that names one must name the fingerprint too"
        yield Limitation(
            topic=TOPIC, text=f"{named(waiver)}, which {held}, matched no finding and changed nothing{why}."
        )
