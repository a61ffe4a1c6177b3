import re
from xml.etree import ElementTree

import junitparser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_hostile import HOSTILE
from report_samples import SAMPLES, accept, empty, inconclusive, reject

from reports.model import AuditReport, Outcome, PlannedProbe, Waiver
from reports.writers import junit

# What the schema of Jenkins' xUnit plugin (junit-10.xsd) allows, of what is used here.
ALLOWED = {
    "testsuites": ({"name", "time", "tests", "failures", "errors"}, {"testsuite"}),
    "testsuite": (
        {"name", "tests", "failures", "errors", "skipped", "time", "timestamp"},
        {"properties", "testcase"},
    ),
    "properties": (set(), {"property"}),
    "property": ({"name", "value"}, set()),
    "testcase": ({"name", "classname", "time"}, {"failure", "error", "skipped", "system-out"}),
    "failure": ({"type", "message"}, set()),
    "error": ({"type", "message"}, set()),
    "skipped": ({"type", "message"}, set()),
    "system-out": (set(), set()),
}
XML_CHARACTERS = re.compile("[\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*")


def written(report: AuditReport) -> ElementTree.Element:
    return ElementTree.fromstring(junit.write(report, lambda _: b""))


def ends(report: AuditReport) -> dict[str, tuple[str, str]]:
    """How each test case ended: tag and type."""
    out = {}
    for case in written(report).iter("testcase"):
        [end] = list(case)
        out[f"{case.get('classname')}.{case.get('name')}"] = (end.tag, end.get("type", ""))
    return out


@pytest.mark.parametrize("name", SAMPLES)
def test_every_sample_keeps_to_the_schema_and_counts_right(name: str) -> None:
    root = written(SAMPLES[name]()[0])
    for element in root.iter():
        attributes, children = ALLOWED[element.tag]
        assert set(element.attrib) == attributes
        assert {child.tag for child in element} <= children
    [suite] = root
    for counter, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        assert int(suite.get(counter, "")) == sum(1 for _ in suite.iter(tag))
    assert int(suite.get("tests", "")) == sum(1 for _ in suite.iter("testcase"))


@pytest.mark.parametrize("name", SAMPLES)
def test_another_reader_counts_the_same(name: str) -> None:
    found = junitparser.JUnitXml.fromstring(junit.write(*SAMPLES[name]()))
    counted = (found.tests, found.failures, found.errors)
    found.update_statistics()
    assert counted == (found.tests, found.failures, found.errors)


def test_outcomes_become_what_a_build_server_acts_on() -> None:
    assert ends(reject()[0]) == {
        "file.safety": ("system-out", ""),
        "file.claims": ("failure", "fail"),
        "backdoor.vocabulary_shift": ("failure", "fail"),
        "behaviour.drift": ("system-out", ""),
        "audit.verdict": ("failure", "reject"),
    }
    assert set(ends(accept()[0]).values()) == {("system-out", "")}


def test_what_could_not_decide_never_reads_as_a_pass() -> None:
    found = ends(inconclusive()[0])
    assert found["behaviour.drift"] == ("error", "inconclusive")
    assert found["backdoor.vocabulary_shift"] == ("skipped", "skipped")
    assert found["audit.verdict"] == ("error", "inconclusive")
    assert ends(empty()[0]) == {"audit.verdict": ("error", "cancelled")}


def test_an_error_and_a_probe_without_a_result_are_errors() -> None:
    report = accept()[0]
    broken = report.results[0].model_copy(update={"outcome": Outcome.ERROR, "reason": "out of memory"})
    plan = report.plan.model_copy(
        update={"probes": (*report.plan.probes, PlannedProbe(id="likeness.face", version=1))}
    )
    found = ends(report.model_copy(update={"results": (broken, *report.results[1:]), "plan": plan}))
    assert found["file.safety"] == ("error", "error")
    assert found["likeness.face"] == ("error", "missing")


def test_a_waiver_skips_only_what_it_covers_in_full() -> None:
    report = reject()[0]
    waiver = Waiver(rule="file.claims", owner="hub team", reason="known trainer", expires="2026-12-31")
    waived = report.findings[0].model_copy(update={"waiver": waiver})
    found = written(report.model_copy(update={"findings": (waived, report.findings[1])}))
    [skipped] = found.iter("skipped")
    assert skipped.get("message") == "waived by hub team until 2026-12-31: known trainer"
    both = report.model_copy(update={"findings": (waived, report.findings[0], report.findings[1])})
    assert ends(both)["file.claims"] == ("failure", "fail")


def test_a_finding_that_no_result_explains_is_a_failure() -> None:
    report = reject()[0]
    loose = report.findings[0].model_copy(update={"rule_id": "other.rule", "evidence": ()})
    assert ends(report.model_copy(update={"findings": (loose,)}))["finding.other.rule"] == (
        "failure",
        "finding",
    )


def with_text(text: str) -> AuditReport:
    report = reject()[0]
    finding = report.findings[0].model_copy(
        update={"title": text, "why": text, "remediation": text, "locations": (text,)}
    )
    failed = report.results[1].model_copy(update={"reason": text, "null": text, "statistic": text})
    return report.model_copy(update={"findings": (finding,), "results": (failed,)})


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text: str) -> None:
    tags = [[element.tag for element in written(with_text(each)).iter()] for each in (text, "plain")]
    assert tags[0] == tags[1]


@settings(deadline=None, derandomize=True, max_examples=80)
@given(st.text(alphabet=st.characters(codec=None), max_size=60))
def test_no_text_can_break_the_file(text: str) -> None:
    report = reject()[0]
    failed = report.results[1].model_copy(update={"reason": text, "probe": text, "null": text})
    data = junit.write(report.model_copy(update={"results": (failed,), "id": text}), lambda _: b"")
    ElementTree.fromstring(data)
    assert XML_CHARACTERS.fullmatch(data.decode("utf-8"))
