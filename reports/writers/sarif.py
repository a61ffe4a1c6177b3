"""The report as SARIF 2.1.0, for code-scanning pages and editors: one alert for each probe and rule."""

from __future__ import annotations

from collections.abc import Callable

from reports.model import AuditReport
from reports.sarif.log import render

__all__ = ["MEDIA_TYPE", "NAME", "SUFFIX", "render", "write"]

NAME = "sarif"
MEDIA_TYPE = "application/sarif+json"
SUFFIX = ".sarif"


def write(report: AuditReport, evidence: Callable[[str], bytes]) -> bytes:
    """One run with the findings as results; what has no answer becomes a notification of the invocation.

    Args:
        report: the report.
        evidence: not used; a SARIF viewer gets figures and hashes, not pictures.

    Returns:
        UTF-8 JSON.

    Raises:
        ValueError: the report holds NaN or an infinity.
    """
    return render([report])
