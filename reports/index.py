"""An index page for a folder of runs: one card a run, strongest evidence in sight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from reports import page, words
from reports.exhibits import Exhibit, strongest_picture
from reports.model import AuditReport, Decision

__all__ = ["IndexEntry", "entry", "write_index"]


@dataclass(frozen=True)
class IndexEntry:
    """One card.

    Attributes:
        name: what was audited; untrusted text.
        decision: the policy's decision.
        reason: the strongest reason.
        path: report page relative to the index page, with forward slashes, as on disk (not yet URL-encoded).
        note: one line about the subject, such as what is known to be in it.
        picture: strongest evidence, or None.
        facts: short label and value pairs.
    """

    name: str
    decision: Decision
    reason: str
    path: str
    note: str = ""
    picture: Exhibit | None = None
    facts: tuple[tuple[str, str], ...] = ()

    @property
    def href(self) -> str:
        """The path as a relative URL; empty where it would lead out of the folder or to another scheme."""
        parts = self.path.split("/")
        if not self.path or any(part in ("", ".", "..") for part in parts) or "\\" in self.path:
            return ""
        # The leading dot keeps a first part such as "javascript:x" a file name.
        return "./" + "/".join(quote(part, safe="", errors="replace") for part in parts)


def entry(
    report: AuditReport, evidence: Callable[[str], bytes], path: str, *, name: str = "", note: str = ""
) -> IndexEntry:
    """Makes the card of a report.

    Args:
        report: the report.
        evidence: bytes of a stored file by its sha256.
        path: the report's page, relative to the index page.
        name: what to call it; the artifact's file name without one.
        note: one line about the subject.
    """
    done, planned = words.evaluated(report)
    return IndexEntry(
        name=name or words.subject_name(report),
        decision=report.verdict.decision,
        reason=words.reasons(report)[0].text
        if report.verdict.reasons
        else words.DECISIONS[report.verdict.decision].meaning,
        path=path,
        note=note,
        picture=strongest_picture(report, evidence),
        facts=(("Findings", words.finding_counts(report)), ("Probes evaluated", f"{done} of {planned}")),
    )


def write_index(entries: Sequence[IndexEntry], title: str = "Audit runs", intro: str = "") -> bytes:
    """The index page: self-contained HTML whose only links lead to the reports beside it.

    Args:
        entries: the cards, in the order shown.
        title: heading.
        intro: prose under the heading.

    Returns:
        UTF-8 HTML.
    """
    return page.render("index.html", entries=entries, title=title, intro=intro)
