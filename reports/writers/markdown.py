"""The report as GitHub-flavoured Markdown, for pull requests, issues and model cards.

Untrusted text cannot format, link, mention or embed: punctuation that Markdown reads is escaped, and a word
that GitHub would link by itself (an address, a mention, an issue number) is put into a code span, the one
place it does not look (see :mod:`reports.markup`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from reports import control_words, numbers, words
from reports.markup import code as _code
from reports.markup import prose as _prose
from reports.markup import table as _table
from reports.model import AuditReport, Finding, Outcome, Result

__all__ = ["MEDIA_TYPE", "NAME", "SUFFIX", "write"]

NAME = "md"
MEDIA_TYPE = "text/markdown"
SUFFIX = ".md"

_MARKS = {"pass": "✓", "fail": "✕", "inconclusive": "?", "error": "!", "skipped": "–"}


def write(report: AuditReport, evidence: Callable[[str], bytes]) -> bytes:
    """The report as Markdown; pictures are named by file and hash, not embedded.

    Args:
        report: the report.
        evidence: not used.

    Returns:
        UTF-8 Markdown.
    """
    sections = (_verdict, _findings, _not_tested, _subject, _results, _claims, _controls, _plan)
    lines = [line for section in sections for line in section(report)]
    return ("\n".join(lines).rstrip() + "\n").encode("utf-8")


def _verdict(report: AuditReport) -> Iterator[str]:
    decision = words.DECISIONS[report.verdict.decision]
    done, planned = words.evaluated(report)
    yield f"# {decision.title}: {_code(words.subject_name(report))}\n"
    yield f"**{decision.meaning}** {decision.advice}\n"
    if words.status_note(report):
        yield f"> {words.status_note(report)}\n"
    for place, reason in enumerate(words.reasons(report), 1):
        yield f"{place}. " + (f"**{reason.label}.** " if reason.label else "") + _prose(reason.text)
    yield f"\n**How sure.** {_prose(words.how_sure(report))}"
    counts, level = words.finding_counts(report).capitalize(), numbers.percent(report.plan.alpha)
    yield f"\n{counts} found; {done} of {planned} probes evaluated; audit level {level}.\n"


def _findings(report: AuditReport) -> Iterator[str]:
    yield "## Findings\n"
    if not report.findings:
        yield "None.\n"
    for finding in words.ordered_findings(report):
        yield from _finding(finding, words.result_behind(finding, report))


def _finding(finding: Finding, result: Result | None) -> Iterator[str]:
    kind = "" if finding.calibrated else ", uncalibrated"
    set_aside = "Waived, " if finding.waiver is not None else ""
    severity = f"{set_aside}{finding.severity.value}".capitalize()
    yield f"### {severity}: {_prose(finding.title)}\n"
    yield f"{_code(finding.rule_id)}, {finding.confidence} confidence{kind}\n"
    if finding.waiver is not None:
        yield f"- **Waived.** {_prose(words.waiver_note(finding))}"
    yield f"- **Why it matters.** {_prose(finding.why)}"
    if result and result.value is not None:
        yield f"- **Measured.** {_prose(words.measurement(result))}; {_prose(words.baseline(result))}"
    yield f"- **What to do.** {_prose(finding.remediation)}"
    if finding.locations:
        yield f"- **Where.** {_codes(finding.locations[:12])}"
    if finding.refs:
        yield "- **References.** " + ", ".join(
            f"{_prose(ref.scheme)} {_code(ref.id)} ({_prose(ref.edition)})" for ref in finding.refs
        )
    for item in finding.evidence:
        file = f"{_code(item.name)} ({_code(item.sha256[:12])})"
        yield f"- **Evidence.** {file} {_prose(item.caption)}".rstrip()
    yield f"- **Fingerprint.** {_code(finding.fingerprint)}\n"


def _not_tested(report: AuditReport) -> Iterator[str]:
    yield "## What was not tested\n"
    yield from (f"- **{_prose(gap.topic)}**: {_prose(gap.text)}" for gap in words.gaps(report))
    if words.beyond(report):
        yield "\nBeyond the tests that ran:\n"
        yield from (f"- {_code(gap.topic)}: {_prose(gap.text)}" for gap in words.beyond(report))
    if not words.gaps(report) and not words.beyond(report):
        yield "Nothing the plan asked for was left out, and no limitation was recorded."
    if words.smallest_effects(report):
        yield "\nSmallest effects that could have been seen:\n"
        rows = (
            (
                _code(r.probe),
                _prose(r.statistic),
                _prose(numbers.quantity(r.min_detectable_effect, r.unit)),
                f"{r.n:,}",
            )
            for r in words.smallest_effects(report)
        )
        yield from _table(("Probe", "Statistic", "Smallest detectable", "n"), rows)
    yield ""


def _subject(report: AuditReport) -> Iterator[str]:
    yield "## What was audited\n"
    rows = (
        (
            _code(a.path),
            _prose(" ".join((a.kind, a.dialect))),
            _prose(a.family),
            _prose(a.rank),
            f"{a.modules:,}",
            numbers.bytes_size(a.size),
            _code(a.sha256),
        )
        for a in report.subject.artifacts
    )
    yield from _table(("Artifact", "Kind", "Family", "Rank", "Modules", "Size", "SHA-256"), rows)
    base, coverage = report.subject.base, report.subject.coverage
    yield (
        f"\nBase: {_code(base.ref)} {_code(base.revision)} {_code(base.sha256)}\n"
        if base
        else "\nBase: none; the artifact was read as a file.\n"
    )
    if coverage:
        differs = {None: "not checked", True: "yes", False: "no"}[coverage.output_differs]
        yield (
            f"Coverage: {coverage.keys_applied:,} of {coverage.keys_total:,} keys applied; "
            f"output differs from base: {differs}. {_prose(coverage.note)}".rstrip()
            + "\n"
        )
    else:
        yield "Coverage: no model was run.\n"


def _results(report: AuditReport) -> Iterator[str]:
    yield "## Results\n"
    head = ("Probe", "Outcome", "Measured", "p", "Adjusted p", "n", "Clean bank", "Cost")
    yield from _table(head, (_result(result) for result in report.results))
    yield ""


def _result(result: Result) -> tuple[str, ...]:
    settled = result.outcome in (Outcome.PASS, Outcome.FAIL)
    outcome = f"{_MARKS[result.outcome]} {result.outcome.value}" + (
        ", uncalibrated" if settled and not result.calibrated else ""
    )
    bank = (
        f"{_code(result.bank.id)}, {result.bank.n:,} adapters, "
        f"false positives {numbers.realised_fpr(result.bank)}"
        if result.bank
        else numbers.NONE
    )
    return (
        _code(result.probe),
        f"{outcome}: {_prose(result.reason)}" if result.reason else outcome,
        _measured(result),
        numbers.p_value(result.p_value),
        numbers.p_value(result.adjusted_p),
        f"{result.n:,}" if result.n else numbers.NONE,
        bank,
        numbers.duration(result.cost.seconds),
    )


def _measured(result: Result) -> str:
    if result.value is None:
        return numbers.NONE
    name = f"{_prose(result.statistic)}: " if result.statistic else ""
    bounds = f", {numbers.interval(result.ci, result.unit)}, {_prose(result.ci.method)}" if result.ci else ""
    return f"{name}{_prose(numbers.quantity(result.value, result.unit))}{bounds}"


def _claims(report: AuditReport) -> Iterator[str]:
    if not report.subject.claims:
        return
    yield "## Claims and what was measured\n"
    told = {None: "cannot be checked", True: "agrees", False: "**contradicted**"}
    rows = (
        (
            _code(c.name),
            _code(c.claimed),
            _code(c.measured),
            " ".join(filter(None, (told[c.agrees], _prose(c.note)))),
        )
        for c in report.subject.claims
    )
    yield from _table(("Claim", "The file says", "Measured", "Agreement"), rows)
    yield ""


def _controls(report: AuditReport) -> Iterator[str]:
    if not report.controls:
        return
    yield "## Evidence for controls\n"
    yield f"{control_words.CONTROLS_LEAD}\n"
    for group in control_words.controls_by_scheme(report):
        yield f"### {_prose(group.scheme)} ({_prose(group.edition)})\n"
        yield f"{group.counted.capitalize()}.\n"
        rows = (
            (
                f"{_code(c.id)} {_prose(c.title)}".rstrip(),
                control_words.CONTROLS[c.status].title,
                _prose(c.reason),
                _codes(c.evidence),
                _prose(c.limits),
            )
            for c in group.controls
        )
        yield from _table(("Control", "Status", "Why", "Evidence from", "Limits"), rows)
        yield ""


def _plan(report: AuditReport) -> Iterator[str]:
    plan, tool = report.plan, report.tool
    budget = "none" if plan.budget_seconds is None else numbers.duration(plan.budget_seconds)
    yield "## Plan\n"
    yield (
        f"Policy {_code(plan.policy)}, audit level {numbers.percent(plan.alpha)}, seed {plan.seed}, "
        f"budget {budget}; device {_code(tool.device)}.\n"
    )
    yield (
        f"Report {_code(report.id)} of {_code(report.created)} by {_code(tool.name)} {_code(tool.version)}, "
        f"schema {report.schema_version}.\n"
    )


def _codes(texts: Iterable[str]) -> str:
    return ", ".join(_code(text) for text in texts)
