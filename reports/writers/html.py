"""The report as one self-contained HTML page: no script, nothing loaded from anywhere, hostile text inert."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from reports import control_words, page, words
from reports.exhibits import Exhibit, Exhibits
from reports.model import AuditReport, Decision, Finding, Result

__all__ = ["MEDIA_TYPE", "NAME", "SUFFIX", "render", "write"]

NAME = "html"
MEDIA_TYPE = "text/html"
SUFFIX = ".html"


@dataclass(frozen=True)
class _ShownFinding:
    finding: Finding
    result: Result | None
    exhibits: list[Exhibit]


@dataclass(frozen=True)
class _ShownResult:
    result: Result
    exhibits: list[Exhibit]


def write(report: AuditReport, evidence: Callable[[str], bytes]) -> bytes:
    """The page, without evidence that is marked sensitive.

    Args:
        report: the report.
        evidence: bytes of a stored file by its sha256; ``KeyError`` or ``OSError`` where there is none.

    Returns:
        UTF-8 HTML.

    Raises:
        ValueError: parameters or details hold NaN or an infinity.
    """
    return render(report, evidence)


def render(report: AuditReport, evidence: Callable[[str], bytes], *, show_sensitive: bool = False) -> bytes:
    """As :func:`write`; ``show_sensitive`` also shows evidence marked as sensitive, such as faces."""
    exhibits = Exhibits(evidence, show_sensitive)
    findings = [
        _ShownFinding(finding, words.result_behind(finding, report), exhibits.take(finding.evidence))
        for finding in words.ordered_findings(report)
    ]
    results = [_ShownResult(result, exhibits.take(result.evidence)) for result in report.results]
    return page.render(
        "report.html",
        report=report,
        findings=findings,
        results=results,
        gallery=[shown for shown in results if shown.exhibits],
        decision=words.DECISIONS[report.verdict.decision],
        decisions=[(each.value, words.DECISIONS[each]) for each in Decision],
        gaps=words.gaps(report),
        beyond=words.beyond(report),
        effects=words.smallest_effects(report),
        evaluated=words.evaluated(report),
        reasons=words.reasons(report),
        control_groups=control_words.controls_by_scheme(report),
    )
