"""Problems of the file reader become findings, each under a rule with editions and advice."""

import re

import pytest

from auditor.artifact.identify import Identified
from auditor.artifact.pickle_guard import GlobalRef, PickleReport
from auditor.artifact.problems import problem
from auditor.artifact.records import FileRecord
from auditor.artifact.sniff import Kind
from auditor.probes.static.claims import claims
from auditor.probes.static.file_safety import file_safety
from auditor.probes.static.observe import claim_observations, fingerprint, safety_observations, worst
from auditor.probes.static.rules import ODD, RULES, rule_for
from reports.model import Finding, Outcome, Result


class Holder:
    """A subject as far as the file stage looks at it."""

    def __init__(self, *artifacts):
        self.artifacts = artifacts


def refused(tmp_path, verdict, *globals_, problems=()):
    report = PickleReport(verdict, globals_, problems, "ab" * 32, 10, 1)
    record = FileRecord("a.pt", Kind.PICKLE, 10, "ab" * 32, pickle=report, problems=problems)
    return Identified(tmp_path / "a.pt", "refused", (record,))


def clean(tmp_path, *problems, kind="adapter"):
    record = FileRecord("a.safetensors", Kind.SAFETENSORS, 10, "cd" * 32, tensor_hash="ef" * 32, tensors=1)
    return Identified(tmp_path / "a.safetensors", kind, (record,), problems=problems)


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.id)
def test_every_rule_says_why_and_what_to_do(rule):
    assert re.fullmatch(r"PMA-(FILE|CLAIM)-\d{3}", rule.id)
    assert len(rule.why) > 30
    assert len(rule.remediation) > 20
    assert all(ref.scheme and ref.edition and ref.id for ref in rule.refs)


@pytest.mark.parametrize(
    ("code", "rule"),
    [
        ("zip.overlap", "PMA-FILE-004"),
        ("model.remote_code", "PMA-FILE-008"),
        ("model.config", "PMA-FILE-011"),
        ("text.bidi", "PMA-FILE-009"),
        ("claims.trigger_text", "PMA-CLAIM-003"),
        ("limit.zip_bomb", "PMA-FILE-012"),
        ("pickle.broken", "PMA-FILE-002"),
    ],
)
def test_the_longest_prefix_of_a_code_chooses_the_rule(code, rule):
    assert rule_for(code).id == rule


def test_a_code_nobody_thought_of_is_still_reported():
    assert rule_for("new.thing") is ODD


def test_notes_are_no_findings(tmp_path):
    assert safety_observations(clean(tmp_path, problem("safetensors.odd_name", "info", "odd"))) == ()


def test_one_finding_a_code_at_its_worst_severity(tmp_path):
    found = safety_observations(
        clean(tmp_path, problem("text.html", "low", "one"), problem("text.html", "medium", "two"))
    )
    assert [(each.rule.id, each.severity, each.details) for each in found] == [
        ("PMA-FILE-009", "medium", ("one", "two"))
    ]


def test_a_disallowed_reference_is_critical_and_named(tmp_path):
    bad = GlobalRef("posix", "system", "GLOBAL", 2, False)
    fine = GlobalRef("collections", "OrderedDict", "GLOBAL", 9, True)
    [found] = safety_observations(refused(tmp_path, "disallowed", bad, fine))
    assert found.severity == "critical"
    assert found.details == ("refers to posix.system",)


@pytest.mark.parametrize("verdict", ["broken", "limit"])
def test_an_unfinished_examination_is_told_once_and_is_no_pass(tmp_path, verdict):
    why = problem("pickle.broken" if verdict == "broken" else "limit.subprocess", "high", "it stopped")
    found = safety_observations(refused(tmp_path, verdict, problems=(why,)))
    assert [(each.rule.id, each.severity, each.details) for each in found] == [
        ("PMA-FILE-002", "high", ("it stopped",))
    ]


def test_the_fingerprint_depends_on_rule_tensors_and_place_only():
    assert fingerprint("R", "t", "x") == fingerprint("R", "t", "x")
    assert len({fingerprint("R", "t", "x"), fingerprint("S", "t", "x"), fingerprint("R", "u", "x")}) == 3


def test_claims_and_file_problems_are_kept_apart(tmp_path):
    artifact = clean(tmp_path, problem("claims.json", "low", "cut"), problem("text.url", "low", "odd"))
    assert [each.rule.id for each in claim_observations(artifact)] == ["PMA-CLAIM-004"]
    assert [each.rule.id for each in safety_observations(artifact)] == ["PMA-FILE-009"]
    assert worst(claim_observations(artifact)) == "low"


@pytest.mark.parametrize("technique", [file_safety, claims])
def test_a_clean_file_passes_and_nothing_is_inconclusive(tmp_path, technique):
    [passed] = technique(Holder(clean(tmp_path)), None, None)
    assert (passed.outcome, passed.n, passed.calibrated) == (Outcome.PASS, 1, True)
    [empty] = technique(Holder(), None, None)
    assert empty.outcome is Outcome.INCONCLUSIVE


def test_the_probe_tells_result_then_findings(tmp_path):
    bad = GlobalRef("posix", "system", "GLOBAL", 2, False)
    result, *findings = file_safety(Holder(refused(tmp_path, "disallowed", bad)), None, None)
    assert isinstance(result, Result)
    assert result.outcome is Outcome.FAIL
    assert "posix.system" in result.reason
    assert [type(each) for each in findings] == [Finding]
    assert findings[0].refs
