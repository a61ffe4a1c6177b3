"""``auditor policy``, waivers on ``auditor audit``, mappings on ``auditor report``."""

import json

import pytest

from auditor.cli.demo_pickle import write_hostile_pickle
from auditor.cli.main import run
from auditor.policy import shipped_policies
from reports.model import AuditReport

FILES_ONLY = "name: files\nrequired: [static.file_safety]\nprobes: ['static.*']\ncoverage: not_asked\n"
WAIVER = "- rule: {rule}\n  owner: Ada\n  reason: our own test file\n  expires: {expires}\n"


def out_of(capsys, code, *arguments):
    assert run(list(arguments)) == code
    return capsys.readouterr().out


def sentence(capsys, *arguments):
    assert run(list(arguments)) == 64
    out, err = capsys.readouterr()
    assert out == "" and len(err.strip().splitlines()) == 1
    return err


def test_policies_are_listed_with_what_they_are_for(capsys):
    told = out_of(capsys, 0, "policy", "list")
    assert [line.split()[0] for line in told.splitlines()] == list(shipped_policies())
    rows = json.loads(out_of(capsys, 0, "policy", "list", "--json"))
    assert [row["name"] for row in rows] == list(shipped_policies())


@pytest.mark.parametrize("name", ["hub-intake", "hub_intake"])
def test_a_policy_is_shown_with_its_comments_and_is_a_file_to_start_from(capsys, tmp_path, name):
    mine = tmp_path / "mine.yaml"
    mine.write_text(out_of(capsys, 0, "policy", "show", name))
    assert "# " in mine.read_text()
    assert out_of(capsys, 0, "policy", "check", str(mine)).endswith("a policy (0 errors, 0 warnings)\n")
    assert json.loads(out_of(capsys, 0, "policy", "show", name, "--json"))["name"] == "hub-intake"


def test_check_tells_every_error_and_ends_with_64(capsys, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: x\nalpha: 2\nrequierd: [a]\n")
    lines = out_of(capsys, 64, "policy", "check", str(path)).splitlines()
    assert lines[-1] == f"{path}: no policy (3 errors, 0 warnings)"
    assert f"{path}, line 3: error: 'requierd' is unknown; did you mean 'required'?" in lines
    found = json.loads(out_of(capsys, 64, "policy", "check", str(path), "--json"))
    assert found["sound"] is False and [each["line"] for each in found["notices"]] == [1, 2, 3]


def test_check_warns_and_ends_with_0(capsys, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        FILES_ONLY + "alpha: 0.001\nwaivers:\n" + WAIVER.format(rule="PMA-FLIE-001", expires="2020-01-01")
    )
    told = out_of(capsys, 0, "policy", "check", str(path))
    assert "warning: Ada's waiver of PMA-FLIE-001 expired on 2020-01-01" in told
    assert "did you mean 'PMA-FILE-0" in told


def test_an_unknown_policy_and_a_file_that_is_no_text(capsys, tmp_path):
    assert "did you mean 'strict'" in sentence(capsys, "policy", "show", "strcit")
    assert "did you mean 'research'" in sentence(capsys, "policy", "check", "reserch")
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe")
    assert "not text" in sentence(capsys, "policy", "check", str(tmp_path / "a.yaml"))


def test_the_schema_is_printed(capsys):
    assert json.loads(out_of(capsys, 0, "policy", "schema"))["properties"]["alpha"]


def test_the_keys_of_a_policy_are_explained(capsys):
    told = out_of(capsys, 0, "explain", "policy")
    assert 'waivable_up_to (default "high")' in told and "expires (needed)" in told


@pytest.fixture
def audited(tmp_path, capsys):
    """Audits a hostile pickle under a policy about files, with waivers; gives code and report."""
    path = write_hostile_pickle(tmp_path / "free_lora.pt")

    def audit(waivers, more=""):
        policy, file = tmp_path / "p.yaml", tmp_path / "w.yaml"
        policy.write_text(FILES_ONLY + more)
        file.write_text(waivers)
        arguments = ["audit", str(path), "--policy", str(policy), "--waivers", str(file)]
        code = run([*arguments, "-o", str(tmp_path / "run"), "--json", "-q"])
        return code, AuditReport.model_validate_json(capsys.readouterr().out), tmp_path / "run"

    return audit


def test_a_critical_finding_is_not_waived_unless_the_policy_says_so(audited):
    code, report, _ = audited(WAIVER.format(rule="PMA-FILE-*", expires="2999-01-01"))
    assert (code, report.verdict.decision) == (1, "reject")
    assert any("Ada's waiver of PMA-FILE-* was refused" in reason for reason in report.verdict.reasons)


def test_waived_findings_stay_in_the_report_and_the_waivers_in_the_plan(audited, capsys):
    waiver = WAIVER.format(rule="PMA-FILE-*", expires="2999-01-01")
    code, report, path = audited(waiver, "waivable_up_to: critical\n")
    assert (code, report.verdict.decision) == (0, "accept_with_conditions")
    assert all(finding.waiver.owner == "Ada" for finding in report.findings)
    assert json.loads((path / "plan.json").read_text())["policy"]["waivers"][0]["owner"] == "Ada"
    assert run(["audit", "--resume", str(path), "--json", "-q"]) == 0
    again = AuditReport.model_validate_json(capsys.readouterr().out)
    assert again.canonical() == report.canonical()


def test_an_expired_waiver_does_nothing_and_an_unmatched_one_is_a_limitation(audited):
    waivers = WAIVER.format(rule="PMA-FILE-001", expires="2020-01-01")
    waivers += WAIVER.format(rule="behaviour.drift", expires="2999-01-01")
    code, report, _ = audited(waivers, "waivable_up_to: critical\n")
    assert (code, report.verdict.decision) == (1, "reject")
    assert any("expired on 2020-01-01" in reason for reason in report.verdict.reasons)
    assert [each.topic for each in report.limitations].count("unused waivers") == 1


def test_waivers_belong_to_the_plan_of_a_run(audited, capsys, tmp_path):
    _, _, path = audited(WAIVER.format(rule="R", expires="2999-01-01"))
    assert "leave it out" in sentence(
        capsys, "audit", "--resume", str(path), "--waivers", str(tmp_path / "w.yaml")
    )


@pytest.fixture
def finished(audited):
    return audited(WAIVER.format(rule="R", expires="2999-01-01"))[2]


def test_controls_are_derived_when_a_report_is_written(finished, capsys, tmp_path):
    before = (finished / "report.json").read_bytes()
    names = "nist-ai-600-1@2024-07,mitre-atlas@5.6.0"
    out = tmp_path / "mapped"
    out_of(capsys, 0, "report", str(finished), "--as", "json,html,md,text", "--map", names, "-o", str(out))
    report = AuditReport.model_validate_json((out / "report.json").read_bytes())
    status = {each.id: each.status for each in report.controls}
    assert status["AML.T0011.000"] == "not_met" and status["MS-2.7-005"] == "not_assessed"
    assert (finished / "report.json").read_bytes() == before
    told = out_of(capsys, 0, "report", str(finished), "--as", "text", "--map", names, "-o", "-")
    assert "this release has no probe watermark.*" in " ".join(told.split())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nist-ai-600@2024-07", "did you mean 'nist-ai-600-1@2024-07'"),
        ("nist-ai-600-1@2023", "there is nist-ai-600-1@2024-07"),
        ("eu-ai-act", "named with its edition: eu-ai-act@2024-1689"),
        (",", "names no mapping"),
    ],
)
def test_an_unknown_mapping_or_edition_is_told(finished, capsys, name, said):
    assert said in sentence(capsys, "report", str(finished), "--map", name)


def test_the_runs_own_json_does_not_take_controls(finished, capsys):
    arguments = ["report", str(finished), "--as", "json", "--map", "mitre-atlas@5.6.0"]
    assert "never changed" in sentence(capsys, *arguments)


def test_mappings_are_listed_and_explained(capsys):
    assert "mitre-atlas@5.6.0" in out_of(capsys, 0, "list", "mappings")
    told = out_of(capsys, 0, "explain", "mapping:eu-ai-act@2024-1689")
    assert "Art. 50(2)" in told and "never a statement of compliance" in told
    assert "did you mean" in sentence(capsys, "explain", "mapping:mitre-atals@5.6.0")
