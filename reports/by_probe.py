"""Which probe a finding comes from: by its rule, by the rules a result lists, or by shared evidence."""

from __future__ import annotations

from collections.abc import Iterable

from reports.model import AuditReport, Finding, Result
from reports.words import result_behind

__all__ = ["result_of", "unexplained"]


def result_of(finding: Finding, report: AuditReport) -> Result | None:
    """The result behind a finding, or None where nothing in the report ties one to it."""
    listed = (each for each in report.results if finding.rule_id in _rules(each))
    return result_behind(finding, report) or next(listed, None)


def unexplained(results: Iterable[Result], report: AuditReport) -> list[Result]:
    """Those results that no finding of the report comes from."""
    behind = {each.probe for each in (result_of(finding, report) for finding in report.findings) if each}
    return [each for each in results if each.probe not in behind]


def _rules(result: Result) -> list[object]:
    rules = result.details.get("rules")
    return rules if isinstance(rules, list) else []
