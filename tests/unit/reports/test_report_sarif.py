import gzip
import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_sarif.model import StaticAnalysisResultsFormatSarifVersion210JsonSchema as Schema
from report_hostile import HOSTILE
from report_samples import SAMPLES, accept, empty, inconclusive, reject

from reports.model import AuditReport, Decision, Finding, Outcome, Reference, Severity, Waiver
from reports.paths import relative_uri
from reports.sarif import log
from reports.sarif.log import render
from reports.sarif.results import MAX_LOCATIONS
from reports.sarif.rules import MAX_TAGS, SECURITY_SEVERITY

WAIVER = Waiver(rule="file.claims", owner="hub team", reason="known trainer", expires="2026-12-31")
URI = re.compile(r"(?:[A-Za-z0-9._~-]|%[0-9A-F]{2})+(?:/(?:[A-Za-z0-9._~-]|%[0-9A-F]{2})+)*")


def log_of(*reports: AuditReport) -> Any:
    return json.loads(render(reports))


def assert_fits_the_schema(body: Any) -> None:
    """Against types that were generated from the published JSON schema and refuse every unknown field.

    They are of a draft that still called a suppression's ``status`` its ``state``.
    """
    body = json.loads(json.dumps(body))
    for result in body["runs"][0]["results"]:
        for suppression in result.get("suppressions", []):
            suppression["state"] = suppression.pop("status")
    Schema.model_validate(body)


def run_of(*reports: AuditReport) -> Any:
    [run] = log_of(*reports)["runs"]
    return run


def with_findings(*findings: Finding) -> AuditReport:
    return reject()[0].model_copy(update={"findings": findings})


def with_path(report: AuditReport, path: str) -> AuditReport:
    item = report.subject.artifacts[0].model_copy(update={"path": path})
    return report.model_copy(update={"subject": report.subject.model_copy(update={"artifacts": (item,)})})


def texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for key, inner in value.items() for text in (key, *texts(inner))]
    if isinstance(value, list):
        return [text for inner in value for text in texts(inner)]
    return [value] if isinstance(value, str) else []


@dataclass(frozen=True)
class CodeScanning:
    """What GitHub documents that an upload must be; written by hand from its reference of the format."""

    body: Any

    def check(self) -> None:
        assert self.body["version"] == "2.1.0"
        assert 1 <= len(self.body["runs"]) <= 20
        for run in self.body["runs"]:
            driver = run["tool"]["driver"]
            assert driver["name"]
            assert len(driver["rules"]) <= 25_000
            assert len(run["results"]) <= 5_000
            names = [rule["id"] for rule in driver["rules"]]
            assert len(set(names)) == len(names)
            for rule in driver["rules"]:
                self.rule(rule)
            for result in run["results"]:
                assert names[result["ruleIndex"]] == result["ruleId"]
                self.result(result)

    def rule(self, rule: Any) -> None:
        for field in ("shortDescription", "fullDescription", "help"):
            assert rule[field]["text"]
        assert len(rule["shortDescription"]["text"]) <= 1024
        assert len(rule["fullDescription"]["text"]) <= 1024
        assert rule["help"]["markdown"]
        assert rule["defaultConfiguration"]["level"] in ("note", "warning", "error")
        assert len(rule["properties"]["tags"]) <= 10
        score = rule["properties"].get("security-severity")
        assert score is None or ("security" in rule["properties"]["tags"] and 0 < float(score) <= 10)

    def result(self, result: Any) -> None:
        assert result["message"]["text"]
        assert 1 <= len(result["locations"]) <= 1_000
        assert re.fullmatch(r"[0-9a-f]+:\d+", result["partialFingerprints"]["primaryLocationLineHash"])
        for location in result["locations"]:
            place = location["physicalLocation"]
            assert URI.fullmatch(place["artifactLocation"]["uri"]), place
            assert place["region"]["startLine"] == 1


@pytest.mark.parametrize("name", SAMPLES)
def test_every_sample_fits_the_published_schema_and_code_scanning(name: str) -> None:
    body = log_of(SAMPLES[name]()[0])
    assert_fits_the_schema(body)
    CodeScanning(body).check()


def test_the_schema_sees_a_breach() -> None:
    body = log_of(reject()[0])
    body["runs"][0]["results"][0]["surprise"] = 1
    with pytest.raises(ValueError, match="surprise"):
        assert_fits_the_schema(body)


def test_level_severity_and_rule_belong_together() -> None:
    levels = {"critical": "error", "high": "error", "medium": "warning", "low": "note", "info": "note"}
    for severity in Severity:
        finding = reject()[0].findings[1].model_copy(update={"severity": severity})
        run = run_of(with_findings(finding))
        [rule] = [each for each in run["tool"]["driver"]["rules"] if each["id"] == finding.rule_id]
        [result] = [each for each in run["results"] if each["ruleId"] == finding.rule_id]
        assert result["level"] == rule["defaultConfiguration"]["level"] == levels[severity.value]
        assert rule["properties"].get("security-severity") == SECURITY_SEVERITY.get(severity)
    bands = {"critical": (9, 10), "high": (7, 8.9), "medium": (4, 6.9), "low": (0.1, 3.9)}
    for severity, score in SECURITY_SEVERITY.items():
        low, high = bands[severity.value]
        assert low <= float(score) <= high


def test_findings_of_one_probe_and_rule_are_one_result_with_all_places() -> None:
    first = reject()[0].findings[1]
    second = first.model_copy(update={"fingerprint": "b" * 64, "locations": ("unet.up.1", "unet.up.2")})
    run = run_of(with_findings(first, second))
    [result] = [each for each in run["results"] if each["ruleId"] == first.rule_id]
    names = [place["logicalLocations"][0]["fullyQualifiedName"] for place in result["locations"]]
    assert names == [*first.locations, *second.locations]
    assert "2 findings of this rule are one alert" in result["message"]["text"]
    assert result["properties"]["findings"] == 2


def test_places_are_cut_at_the_limit_and_it_says_how_many() -> None:
    many = tuple(f"unet.block.{number}" for number in range(MAX_LOCATIONS + 7))
    run = run_of(with_findings(reject()[0].findings[1].model_copy(update={"locations": many})))
    [result] = [each for each in run["results"] if each["ruleId"] == "backdoor.vocabulary_shift"]
    assert len(result["locations"]) == MAX_LOCATIONS
    assert "7 further places are left out" in result["message"]["text"]
    assert result["properties"]["locationsLeftOut"] == 7


def test_fingerprints_survive_another_path_time_and_release() -> None:
    report = reject()[0]
    other = with_path(report, "elsewhere/renamed.safetensors").model_copy(
        update={"id": "run-2", "created": "2027-01-01T00:00:00Z"}
    )
    prints = [[each["partialFingerprints"] for each in run_of(each)["results"]] for each in (report, other)]
    assert prints[0] == prints[1]
    changed = report.subject.artifacts[0].model_copy(update={"tensor_hash": "c" * 64})
    subject = report.subject.model_copy(update={"artifacts": (changed,)})
    third = run_of(report.model_copy(update={"subject": subject}))["results"][0]["partialFingerprints"]
    assert third["primaryLocationLineHash"] != prints[0][0]["primaryLocationLineHash"]


def test_a_waiver_is_a_suppression_and_never_hides_another_finding() -> None:
    finding = reject()[0].findings[0]
    waived = finding.model_copy(update={"waiver": WAIVER, "fingerprint": "d" * 64})
    run = run_of(with_findings(finding, waived))
    live, quiet = [each for each in run["results"] if each["ruleId"] == "file.claims"]
    assert "suppressions" not in live
    [suppression] = quiet["suppressions"]
    assert (suppression["kind"], suppression["status"]) == ("external", "accepted")
    assert suppression["justification"] == "known trainer (waived by hub team until 2026-12-31)"
    prints = [each["partialFingerprints"]["primaryLocationLineHash"] for each in (live, quiet)]
    assert [text.rpartition(":")[2] for text in prints] == ["1", "2"]
    assert_fits_the_schema(log_of(with_findings(finding, waived)))


def test_a_probe_that_failed_without_a_finding_is_an_alert() -> None:
    run = run_of(with_findings())
    assert {(each["ruleId"], each["level"]) for each in run["results"]} == {
        ("file.claims", "warning"),
        ("backdoor.vocabulary_shift", "warning"),
    }


def test_what_has_no_answer_is_a_notification_and_no_empty_page() -> None:
    run = run_of(inconclusive()[0])
    notes = run["invocations"][0]["toolExecutionNotifications"]
    kinds = [(each["descriptor"]["id"], each["level"]) for each in notes]
    assert ("probe-skipped", "note") in kinds
    assert ("probe-inconclusive", "warning") in kinds
    assert kinds.count(("not-assessed", "note")) >= 2
    known = [each["id"] for each in run["tool"]["driver"]["notifications"]]
    assert all(known[each["descriptor"]["index"]] == each["descriptor"]["id"] for each in notes)
    [result] = run["results"]
    assert result["ruleId"] == "audit.inconclusive"
    assert "not a pass" in result["message"]["text"]


def test_a_decision_that_nothing_else_shows_is_an_alert() -> None:
    report = accept()[0]
    verdict = report.verdict.model_copy(update={"decision": Decision.QUARANTINE, "reasons": ("refused",)})
    [result] = run_of(report.model_copy(update={"verdict": verdict}))["results"]
    assert result["ruleId"] == "audit.quarantine"
    assert "Quarantine" in result["message"]["text"]


def test_a_clean_report_has_no_result_and_says_what_passed() -> None:
    run = run_of(accept()[0])
    assert run["results"] == []
    assert len(run["properties"]["audits"][0]["passed"]) == 4
    assert run["invocations"][0]["executionSuccessful"] is True


def test_a_probe_with_an_error_or_an_audit_without_success_is_no_successful_execution() -> None:
    report = accept()[0]
    broken = report.results[0].model_copy(update={"outcome": Outcome.ERROR, "reason": "out of memory"})
    run = run_of(report.model_copy(update={"results": (broken, *report.results[1:])}))
    assert run["invocations"][0]["executionSuccessful"] is False
    assert run["invocations"][0]["toolExecutionNotifications"][0]["level"] == "error"
    run = run_of(empty()[0])
    assert run["invocations"][0]["executionSuccessful"] is False
    assert [each["ruleId"] for each in run["results"]] == ["audit.incomplete"]


def test_figures_bank_and_base_are_properties() -> None:
    result = run_of(reject()[0])["results"][0]
    found = result["properties"]
    assert (found["value"], found["pValue"], found["n"]) == (21.4, 0.0083, 4096)
    assert found["interval"] == {"method": "bootstrap BCa", "level": 0.95, "low": 18.9, "high": 24.3}
    assert found["bank"]["n"] == 120
    assert found["base"]["ref"] == "embedded"
    assert "120 clean adapters" in result["message"]["text"]


def test_taxonomies_carry_their_edition_and_rules_point_into_them() -> None:
    refs = (Reference(scheme="CWE", edition="4.14", id="CWE-94"), *reject()[0].findings[1].refs)
    run = run_of(with_findings(reject()[0].findings[1].model_copy(update={"refs": refs})))
    editions = {each["name"]: each["version"] for each in run["taxonomies"]}
    assert editions == {"CWE": "4.14", "MITRE ATLAS": "2026.09", "NIST AI 100-2": "e2025"}
    [rule] = [each for each in run["tool"]["driver"]["rules"] if "relationships" in each]
    for relation in rule["relationships"]:
        target = relation["target"]
        taxonomy = run["taxonomies"][target["toolComponent"]["index"]]
        assert taxonomy["name"] == target["toolComponent"]["name"]
        assert target["id"] in [taxon["id"] for taxon in taxonomy["taxa"]]
    assert "external/cwe/cwe-094" in rule["properties"]["tags"]


def test_tags_stay_within_what_is_shown() -> None:
    refs = tuple(Reference(scheme="CWE", edition="4.14", id=f"CWE-{number}") for number in range(1, 40))
    run = run_of(with_findings(reject()[0].findings[1].model_copy(update={"refs": refs})))
    [rule] = [each for each in run["tool"]["driver"]["rules"] if "relationships" in each]
    assert len(rule["properties"]["tags"]) == MAX_TAGS
    assert rule["properties"]["tags"][0] == "security"


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_stay_below_and_hostile_text_stays_text(text: str) -> None:
    finding = (
        reject()[0]
        .findings[1]
        .model_copy(
            update={"title": text, "why": text, "remediation": text, "locations": (text,), "rule_id": text}
        )
    )
    report = with_path(with_findings(finding), f"in/{text}")
    body = log_of(report)
    assert_fits_the_schema(body)
    CodeScanning(body).check()
    data = render([report]).decode()
    assert not set(data) & set("\x00\x07\x1b\x9b\u202e\u200b\ufeff\u2028")
    for result in body["runs"][0]["results"]:
        assert not re.search(r"\]\(", result["message"]["text"])
        assert not re.search(r"(?<!\{)(?:\{\{)*\{\d+\}", result["message"]["text"])


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        ("a b/ü%.pt", "a%20b/%C3%BC%25.pt"),
        ("./x/./y.pt", "x/y.pt"),
        ("/home/somebody/y.pt", "y.pt"),
        ("C:\\Users\\somebody\\y.pt", "y.pt"),
        ("\\\\server\\share\\y.pt", "y.pt"),
        ("../../etc/passwd", "passwd"),
        ("javascript:alert(1)", "javascript%3Aalert%281%29"),
        ("//evil.example/x.pt", "x.pt"),
        ("a\\b.pt", "a%5Cb.pt"),
        ("", "unnamed"),
        ("/", "unnamed"),
    ],
)
def test_paths_become_relative_uris(path: str, uri: str) -> None:
    run = run_of(with_path(reject()[0], path))
    assert run["artifacts"][0]["location"]["uri"] == uri
    assert not unquote(uri).startswith("/")


def test_no_placeholder_and_no_link_can_form_in_a_message() -> None:
    finding = reject()[0].findings[1].model_copy(update={"title": "{0} [x](1) {{1}}", "rule_id": "r"})
    run = run_of(with_findings(finding))
    [result] = [each for each in run["results"] if each["ruleId"] == "r"]
    assert result["message"]["text"].startswith("{{0}} [x] (1) {{{{1}}}}.")
    [rule] = [each for each in run["tool"]["driver"]["rules"] if each["id"] == "r"]
    assert rule["shortDescription"]["text"] == "{{0}} [x] (1) {{{{1}}}}"


@settings(deadline=None, derandomize=True, max_examples=300)
@given(
    st.text(alphabet=st.characters(codec=None), max_size=30) | st.text(alphabet="./\\:Ca%20 ~", max_size=12)
)
def test_any_path_becomes_a_relative_uri_that_does_not_climb(path: str) -> None:
    uri = relative_uri(path)
    assert URI.fullmatch(uri)
    assert not {".", ".."} & set(uri.split("/"))


def test_absolute_folders_are_nowhere_in_the_file() -> None:
    where = "/home/somebody/secret project"
    report = with_path(reject()[0], f"{where}/a.safetensors")
    base = report.subject.base
    assert base
    subject = report.subject.model_copy(update={"base": base.model_copy(update={"ref": f"{where}/sd15"})})
    finding = report.findings[0].model_copy(
        update={"why": f"see {where}/a.safetensors", "locations": (f"{where}/a.safetensors", "/srv/other/x")}
    )
    data = render([report.model_copy(update={"subject": subject, "findings": (finding,)})]).decode()
    assert "somebody" not in data
    assert "/srv/other" not in data


def test_several_reports_are_one_run_with_absolute_paths_below_their_common_folder() -> None:
    first = with_path(reject()[0], "/data/in/a/x.pt")
    second = with_path(accept()[0], "/data/in/b/x.pt")
    run = run_of(first, second)
    assert [each["location"]["uri"] for each in run["artifacts"]] == ["a/x.pt", "b/x.pt"]
    assert len(run["properties"]["audits"]) == 2
    CodeScanning(log_of(first, second)).check()


def test_a_file_in_an_audited_folder_is_a_place_of_its_own() -> None:
    finding = (
        reject()[0]
        .findings[0]
        .model_copy(update={"locations": ("model/unet/a b.bin", "model"), "rule_id": "r"})
    )
    run = run_of(with_path(with_findings(finding), "model"))
    [result] = [each for each in run["results"] if each["ruleId"] == "r"]
    uris = [each["physicalLocation"]["artifactLocation"]["uri"] for each in result["locations"]]
    assert uris == ["model/unet/a%20b.bin", "model"]


def test_the_weakest_results_go_first_when_the_limit_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "MAX_RESULTS", 1)
    run = run_of(reject()[0])
    assert [each["ruleId"] for each in run["results"]] == ["backdoor.vocabulary_shift"]
    note = run["invocations"][0]["toolExecutionNotifications"][0]
    assert note["descriptor"]["id"] == "left-out"
    assert note["message"]["text"].startswith("1 weaker alerts are left out")


def test_a_file_too_large_to_upload_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    base = reject()[0].findings[1]
    findings = tuple(base.model_copy(update={"rule_id": f"rule.{number}"}) for number in range(64))
    report = with_findings(*findings)
    monkeypatch.setattr(log, "MAX_GZIPPED", 4_000)
    data = render([report])
    assert len(gzip.compress(data)) <= 4_000
    run = json.loads(data)["runs"][0]
    assert 0 < len(run["results"]) < 64
    assert run["invocations"][0]["toolExecutionNotifications"][0]["descriptor"]["id"] == "left-out"


def test_notes_are_cut_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "MAX_NOTES", 2)
    notes = run_of(inconclusive()[0])["invocations"][0]["toolExecutionNotifications"]
    assert [each["descriptor"]["id"] for each in notes][-1] == "left-out"
    assert len(notes) == 2


def test_nothing_points_to_somebody_elses_domain_but_the_schema() -> None:
    found = {text for text in texts(log_of(reject()[0])) if "://" in text}
    assert found == {log.SCHEMA}


def test_no_report_is_no_file() -> None:
    with pytest.raises(ValueError, match="no report"):
        render([])
