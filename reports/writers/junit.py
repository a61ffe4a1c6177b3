"""The report as JUnit XML, for build servers: one test case a probe, and one for the verdict.

A build server takes a skipped test for harmless. So a probe that could not decide is an ``error`` of type
``inconclusive``: the build fails, and the page does not say that something was found, as a ``failure`` would.
Probes that were skipped stay skipped, because the policy may allow it; what it made of them is the test case
``audit.verdict``, which passes only if the decision does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from xml.etree import ElementTree

from reports import words
from reports.by_probe import result_of
from reports.model import AuditReport, Decision, Finding, Outcome, Result, Status
from reports.text import inert, inert_lines

__all__ = ["MEDIA_TYPE", "NAME", "SUFFIX", "write"]

NAME = "junit"
MEDIA_TYPE = "application/xml"
SUFFIX = ".xml"


def write(report: AuditReport, evidence: Callable[[str], bytes]) -> bytes:
    """One test suite in the dialect that Jenkins, GitLab and GitHub actions read.

    Characters that XML 1.0 has no form for, and those that hide or reorder, are spelled out.

    Args:
        report: the report.
        evidence: not used.

    Returns:
        UTF-8 XML.
    """
    cases = [*_probes(report), *_loose_findings(report), _verdict(report)]
    counts = {
        "tests": str(len(cases)),
        "failures": str(sum(case.find("failure") is not None for case in cases)),
        "errors": str(sum(case.find("error") is not None for case in cases)),
    }
    time = f"{sum(result.cost.seconds for result in report.results):.3f}"
    root = ElementTree.Element("testsuites", {"name": "audit", **counts, "time": time})
    skipped = str(sum(case.find("skipped") is not None for case in cases))
    suite = ElementTree.SubElement(
        root,
        "testsuite",
        {
            "name": _line(words.subject_name(report)),
            **counts,
            "skipped": skipped,
            "time": time,
            "timestamp": _line(report.created),
        },
    )
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in _facts(report):
        ElementTree.SubElement(properties, "property", {"name": name, "value": _line(value)})
    suite.extend(cases)
    ElementTree.indent(root)
    data: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return data + b"\n"


def _facts(report: AuditReport) -> Iterator[tuple[str, str]]:
    yield "report", report.id
    yield "tool", f"{report.tool.name} {report.tool.version}"
    yield "policy", report.plan.policy
    yield "alpha", str(report.plan.alpha)
    yield "seed", str(report.plan.seed)
    for item in report.subject.artifacts:
        yield "artifact.sha256", item.sha256
    if report.subject.base:
        yield "base", f"{report.subject.base.ref} {report.subject.base.sha256}"
    for gap in words.gaps(report):
        yield "not assessed", f"{gap.topic}: {gap.text}"


def _probes(report: AuditReport) -> Iterator[ElementTree.Element]:
    for result in report.results:
        found = [each for each in words.ordered_findings(report) if result_of(each, report) == result]
        yield _probe(result, found)
    answered = {result.probe for result in report.results}
    for probe in report.plan.probes:
        if probe.id not in answered:
            case = _case(probe.id, 0.0)
            _end(case, "error", "missing", "planned, and ended without a result", "")
            yield case


def _probe(result: Result, found: Sequence[Finding]) -> ElementTree.Element:
    case = _case(result.probe, result.cost.seconds)
    body = "\n\n".join([_figures(result), *(_told(finding) for finding in found)])
    waived = [finding.waiver for finding in found if finding.waiver]
    if result.outcome is Outcome.FAIL and found and len(waived) == len(found):
        until = "; ".join(f"waived by {w.owner} until {w.expires}: {w.reason}" for w in waived)
        _end(case, "skipped", "waived", until, body)
    elif result.outcome is Outcome.FAIL:
        _end(case, "failure", "fail", found[0].title if found else result.reason, body)
    elif result.outcome in (Outcome.INCONCLUSIVE, Outcome.ERROR):
        _end(case, "error", result.outcome.value, result.reason, body)
    elif result.outcome is Outcome.SKIPPED:
        _end(case, "skipped", "skipped", result.reason, body)
    else:
        ElementTree.SubElement(case, "system-out").text = _block(body)
    return case


def _loose_findings(report: AuditReport) -> Iterator[ElementTree.Element]:
    """Findings that no result explains must not be lost."""
    for finding in words.ordered_findings(report):
        if result_of(finding, report) is None:
            case = _case(f"finding.{finding.rule_id}", 0.0)
            kind = ("skipped", "waived") if finding.waiver else ("failure", "finding")
            _end(case, *kind, finding.title, _told(finding))
            yield case


def _verdict(report: AuditReport) -> ElementTree.Element:
    case = _case("audit.verdict", 0.0)
    decision = report.verdict.decision
    body = "\n".join([words.DECISIONS[decision].meaning, *report.verdict.reasons])
    if words.accepted(report):
        ElementTree.SubElement(case, "system-out").text = _block(body)
    elif report.status is not Status.SUCCESS:
        _end(case, "error", report.status.value, words.status_note(report), body)
    else:
        tag = "error" if decision is Decision.INCONCLUSIVE else "failure"
        _end(case, tag, decision.value, words.DECISIONS[decision].meaning, body)
    return case


def _case(name: str, seconds: float) -> ElementTree.Element:
    family, _, rest = name.partition(".")
    attributes = {"classname": _line(family) or "audit", "name": _line(rest or name) or "unnamed"}
    return ElementTree.Element("testcase", {**attributes, "time": f"{seconds:.3f}"})


def _end(case: ElementTree.Element, tag: str, kind: str, message: str, body: str) -> None:
    ended = ElementTree.SubElement(case, tag, {"type": kind, "message": _line(message) or kind})
    ended.text = _block(body)


def _figures(result: Result) -> str:
    lines = [result.reason, f"null hypothesis: {result.null}" if result.null else ""]
    if result.value is not None:
        lines += [words.measurement(result), words.baseline(result)]
    return "\n".join(line for line in lines if line)


def _told(finding: Finding) -> str:
    where = f"\nwhere: {', '.join(finding.locations[:12])}" if finding.locations else ""
    head = f"{finding.severity.value}: {finding.title} ({finding.rule_id})"
    return f"{head}\n{finding.why}\nwhat to do: {finding.remediation}{where}"


def _line(text: str) -> str:
    return inert(" ".join(text.split()), 400)


def _block(text: str) -> str:
    return inert_lines(text).strip()
