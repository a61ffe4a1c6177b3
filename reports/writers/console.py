"""The report for a terminal: plain text that fits 100 columns, with the verdict in its first three lines."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator

from reports import control_words, numbers, words
from reports.model import AuditReport, Decision, Finding, Outcome, Result
from reports.text import cells, fit, inert, paragraphs

__all__ = ["MEDIA_TYPE", "NAME", "SUFFIX", "WIDTH", "render", "write"]

NAME = "text"
MEDIA_TYPE = "text/plain"
SUFFIX = ".txt"
WIDTH = 100

_LABEL = 12
_COLUMNS = (13, 30, 28, 9, 9)  # outcome, probe, value and interval, p, n
_COLOURS = {
    Decision.ACCEPT: 32,
    Decision.ACCEPT_WITH_CONDITIONS: 32,
    Decision.INCONCLUSIVE: 36,
    Decision.REVIEW: 33,
    Decision.QUARANTINE: 31,
    Decision.REJECT: 31,
}


def write(report: AuditReport, evidence: Callable[[str], bytes]) -> bytes:
    """The report as plain text without terminal colours.

    Args:
        report: the report.
        evidence: not used.

    Returns:
        UTF-8 text, every line at most 100 columns wide.
    """
    return render(report).encode("utf-8")


def render(report: AuditReport, *, colour: bool = False) -> str:
    """As :func:`write`, as a string; ``colour`` sets the decision off with an ANSI colour."""
    first, *rest = (line for entry in _verdict(report) for line in entry)
    if colour:
        title = words.DECISIONS[report.verdict.decision].title.upper()
        first = first.replace(title, f"\x1b[1;{_COLOURS[report.verdict.decision]}m{title}\x1b[0m", 1)
    sections = (_reasons, _findings, _results, _not_tested, _subject, _controls)
    lines = [first, *rest, *(line for section in sections for line in section(report))]
    return "\n".join(line.rstrip() for line in lines).rstrip() + "\n"


def _verdict(report: AuditReport) -> Iterator[list[str]]:
    decision = words.DECISIONS[report.verdict.decision]
    reason = words.reasons(report)[0].text if report.verdict.reasons else decision.meaning
    yield _entry("VERDICT", f"{decision.title.upper()}: {_flat(reason)}")
    yield _entry("STRONGEST", _strongest(report))
    count = len(words.gaps(report)) + len(words.beyond(report))
    told = inert(words.not_tested(report), 400)
    yield _entry("NOT TESTED", f"{count}: {told}" if count else told)


def _strongest(report: AuditReport) -> str:
    findings = [finding for finding in words.ordered_findings(report) if finding.waiver is None]
    if not findings:
        return f"no finding that is not waived ({words.waived(report)})" if report.findings else "no finding"
    result = words.result_behind(findings[0], report)
    if result is None or result.value is None:
        return f"{findings[0].severity.value}: {_flat(findings[0].title)}"
    p = "" if result.p_value is None else f", p = {numbers.p_value(result.p_value)}"
    return f"{inert(result.probe, 40)} {_value(result)}{p}, {words.baseline(result)}"


def _reasons(report: AuditReport) -> Iterator[str]:
    decision = words.DECISIONS[report.verdict.decision]
    yield ""
    yield from _wrapped(inert(words.subject_name(report), 200))
    yield from _wrapped(f"{decision.meaning} {decision.advice}")
    yield from _wrapped(f"How sure: {_flat(words.how_sure(report))}")
    if words.status_note(report):
        yield from _wrapped(words.status_note(report))
    for reason in words.reasons(report):
        label = f"{reason.label}: " if reason.label else ""
        yield from _wrapped(f"{label}{_flat(reason.text)}", first="  - ", indent="    ")


def _findings(report: AuditReport) -> Iterator[str]:
    yield from ("", f"FINDINGS  {words.finding_counts(report)}")
    for finding in words.ordered_findings(report):
        yield from _finding(finding, words.result_behind(finding, report))


def _finding(finding: Finding, result: Result | None) -> Iterator[str]:
    kind = f"{finding.confidence} confidence" + ("" if finding.calibrated else ", uncalibrated")
    yield ""
    yield from _wrapped(
        f"{finding.severity.value.upper()}  {_flat(finding.title)}", first="  ", indent="    "
    )
    yield from _wrapped(f"{inert(finding.rule_id)} ({kind})", first="    ", indent="    ")
    if finding.waiver is not None:
        yield from _field("waived", words.waiver_note(finding))
    yield from _field("why", finding.why)
    if result and result.value is not None:
        yield from _field("measured", f"{words.measurement(result)}; {words.baseline(result)}")
    yield from _field("what to do", finding.remediation)
    if finding.locations:
        yield from _field("where", ", ".join(inert(place, 80) for place in finding.locations[:6]))


def _results(report: AuditReport) -> Iterator[str]:
    done, planned = words.evaluated(report)
    level = numbers.percent(report.plan.alpha)
    yield from ("", f"RESULTS  {done} of {planned} probes evaluated, audit level {level}", "")
    if report.results:
        yield _row("outcome", "probe", "value [interval]", "p", "n")
    for result in report.results:
        value = _value(result)
        yield _row(
            result.outcome.value,
            inert(result.probe, 60),
            value,
            numbers.p_value(result.p_value),
            f"{result.n:,}" if result.n else numbers.NONE,
        )
        if result.statistic and result.value is not None:
            yield from _wrapped(
                f"{_flat(result.statistic)}; {_flat(words.baseline(result))}", first=" " * 15, indent=" " * 15
            )
        if result.reason and result.outcome != Outcome.PASS:
            yield from _wrapped(_flat(result.reason), first=" " * 15, indent=" " * 15)


def _value(result: Result) -> str:
    if result.value is None:
        return numbers.NONE
    show = numbers.percent if result.unit in numbers.RATE_UNITS else numbers.number
    bounds = f" [{show(result.ci.low)}, {show(result.ci.high)}]" if result.ci else ""
    return inert(numbers.quantity(result.value, result.unit), 40) + bounds


def _not_tested(report: AuditReport) -> Iterator[str]:
    yield from ("", "NOT TESTED")
    for gap in words.gaps(report):
        yield from _wrapped(f"{_flat(gap.topic)}: {_flat(gap.text)}", first="  - ", indent="    ")
    for gap in words.beyond(report):
        yield from _wrapped(f"beyond {_flat(gap.topic)}: {_flat(gap.text)}", first="  - ", indent="    ")
    for result in words.smallest_effects(report):
        smallest = numbers.quantity(result.min_detectable_effect, result.unit)
        yield from _wrapped(
            f"{_flat(result.probe)}: an effect below {_flat(smallest)} would have been missed",
            first="  - ",
            indent="    ",
        )


def _subject(report: AuditReport) -> Iterator[str]:
    yield from ("", "SUBJECT")
    for item in report.subject.artifacts:
        parts = (
            item.kind,
            item.dialect,
            item.family,
            item.rank and f"rank {item.rank}",
            f"{item.modules:,} modules",
            numbers.bytes_size(item.size),
        )
        yield from _wrapped(inert(item.path, 200), first="  ", indent="  ")
        yield from _wrapped(", ".join(inert(part, 60) for part in parts if part), first="    ", indent="    ")
        yield from _wrapped(f"sha256 {inert(item.sha256, 64)}", first="    ", indent="    ")
    base, coverage = report.subject.base, report.subject.coverage
    yield from _wrapped(
        f"base {inert(base.ref)}" if base else "no base: read as a file", first="  ", indent="    "
    )
    if coverage:
        yield from _wrapped(
            f"{coverage.keys_applied:,} of {coverage.keys_total:,} keys applied. {_flat(coverage.note)}",
            first="  ",
            indent="    ",
        )


def _controls(report: AuditReport) -> Iterator[str]:
    if not report.controls:
        return
    yield from ("", "EVIDENCE FOR CONTROLS")
    yield from _wrapped(control_words.CONTROLS_LEAD, first="  ", indent="  ")
    for group in control_words.controls_by_scheme(report):
        yield ""
        yield from _wrapped(
            f"{inert(group.scheme)} ({inert(group.edition, 40)}): {group.counted}", first="  ", indent="    "
        )
        for control in group.controls:
            title = f"  {_flat(control.title)}" if control.title else ""
            status = control_words.CONTROLS[control.status].title.upper()
            yield from _wrapped(f"{inert(control.id, 60)}{title}", first="  - ", indent="    ")
            yield from _wrapped(f"{status}. {_flat(control.reason)}", first="    ", indent="    ")
            if control.evidence:
                probes = ", ".join(inert(probe, 80) for probe in control.evidence)
                yield from _field("evidence", probes)
            if control.limits:
                yield from _field("limits", control.limits)


def _flat(text: str) -> str:
    return " ".join(paragraphs(text))


def _entry(label: str, text: str) -> list[str]:
    """One line, two where it must be; the whole text follows further down."""
    lines = list(_wrapped(text, first=f"{label:<{_LABEL}}", indent=" " * _LABEL))
    return lines if len(lines) <= 2 else [lines[0], fit(lines[1] + " " * WIDTH + "…", WIDTH)]


def _field(label: str, text: str) -> Iterator[str]:
    return _wrapped(_flat(text), first=f"    {label:<{_LABEL}}", indent=" " * (4 + _LABEL))


def _row(*values: str) -> str:
    return "  " + "  ".join(_pad(value, width) for value, width in zip(values, _COLUMNS, strict=True))


def _pad(text: str, width: int) -> str:
    text = fit(text, width)
    return text + " " * (width - cells(text))


def _wrapped(text: str, first: str = "", indent: str = "") -> Iterator[str]:
    # textwrap counts characters; a line of wide ones is cut to the terminal's columns.
    lines = textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False)
    for line in lines:
        yield from (line,) if cells(line) <= WIDTH else _by_cells(line, indent)


def _by_cells(line: str, indent: str) -> Iterator[str]:
    while cells(line) > WIDTH:
        size = next(size for size in range(len(line), 0, -1) if cells(line[:size]) <= WIDTH)
        yield line[:size]
        line = indent + line[size:]
    yield line
