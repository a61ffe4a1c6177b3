"""``auditor audit``: what it refuses before any work, and audits that need no model."""

import json
from pathlib import Path

import pytest
from cli_files import write_broken, write_lora

from auditor import policy as default
from auditor.cli import auditing
from auditor.cli.demo_pickle import write_hostile_pickle
from auditor.cli.main import run
from reports.model import AuditReport


def sentence(capsys):
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1
    return err


@pytest.fixture
def hostile(tmp_path):
    return write_hostile_pickle(tmp_path / "free_lora.pt")


@pytest.fixture
def audited(hostile, tmp_path, capsys):
    out = tmp_path / "run"
    code = run(["audit", str(hostile), "-o", str(out), "--json", "--quiet"])
    return code, AuditReport.model_validate_json(capsys.readouterr().out), out


def test_a_hostile_pickle_is_rejected_without_being_loaded(audited):
    code, report, out = audited
    assert code == 1
    assert report.verdict.decision == "reject"
    assert report.findings[0].rule_id == "PMA-FILE-001"
    assert report.subject.base is None
    assert report.tool.device == "none"
    skipped = [result for result in report.results if result.probe == "backdoor.vocabulary_shift"]
    assert [result.outcome for result in skipped] == ["skipped"]
    assert {"plan.json", "events.jsonl", "report.json", "report.html"} <= {
        path.name for path in out.iterdir()
    }


def test_a_finished_run_resumes_to_the_same_report(audited, capsys):
    _, report, out = audited
    assert run(["audit", "--resume", str(out), "--json", "-q"]) == 1
    assert AuditReport.model_validate_json(capsys.readouterr().out).canonical() == report.canonical()


def test_a_finished_run_is_written_in_other_formats(audited, tmp_path, capsys):
    out = audited[2]
    assert run(["report", str(out), "--as", "md,text", "-o", str(tmp_path / "other")]) == 0
    written = capsys.readouterr().out.split()
    assert [name.rpartition("/")[2] for name in written] == ["report.md", "report.txt"]
    assert run(["report", str(out), "--as", "text", "-o", "-"]) == 0
    assert "REJECT" in capsys.readouterr().out


def test_the_runs_own_report_is_never_written_again(audited, capsys):
    path = audited[2] / "report.json"
    before = path.read_bytes(), path.stat().st_mtime_ns
    assert run(["report", str(audited[2]), "--as", "json"]) == 0
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_progress_goes_to_stderr_and_the_result_to_stdout(hostile, tmp_path, capsys):
    assert run(["audit", str(hostile), "-o", str(tmp_path / "run"), "--probes", "static.*"]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("VERDICT")
    assert "static.file_safety fail" in err
    assert "report.html" in err


def test_without_o_the_run_goes_to_the_state_folder(hostile, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for _ in range(2):
        assert run(["audit", str(hostile), "--probes", "static.*"]) == 1
    runs = tmp_path / "state" / "personalized-model-auditor" / "runs"
    assert sorted(path.name for path in runs.iterdir()) == ["free_lora", "free_lora-2"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing to audit"),
        (["no/such/file"], "there is no"),
        (["LORA", "--probes", "static.file_safty"], "did you mean 'static.file_safety'"),
        (["LORA", "--policy", "defualt"], "did you mean 'default'"),
        (["LORA", "--budget", "soon"], "no duration"),
        (["LORA", "--resume", "RUN"], "leave them out"),
        (["--resume", "RUN", "--seed", "3"], "leave it out"),
        (["--resume", "."], "not the directory of a run"),
    ],
)
def test_usage_errors_end_before_any_work(arguments, said, tmp_path, capsys, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("work was begun")

    monkeypatch.setattr(auditing, "opened", never)
    monkeypatch.chdir(tmp_path)
    lora = write_lora(tmp_path / "a.safetensors")
    names = {"LORA": str(lora), "RUN": str(tmp_path / "run")}
    assert run(["audit", *(names.get(each, each) for each in arguments)]) == 64
    assert said in sentence(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_bad_policy_names_line_and_key(tmp_path, capsys):
    policy = tmp_path / "policy.yaml"
    shipped = (Path(default.__file__).parent / "default.yaml").read_text()
    policy.write_text(shipped + "requierd: []\n")
    assert run(["audit", str(write_lora(tmp_path / "a.safetensors")), "--policy", str(policy)]) == 64
    said = sentence(capsys)
    assert f"line {len(shipped.splitlines()) + 1}" in said
    assert "'requierd' is unknown; did you mean 'required'" in said


@pytest.mark.parametrize(
    ("make", "code"), [(write_broken, 2), (lambda path: path.write_bytes(b"GGUF\3\0\0\0") and path, 4)]
)
def test_what_cannot_be_audited_leaves_nothing_behind(tmp_path, capsys, make, code):
    path = make(tmp_path / "a.bin")
    assert run(["audit", str(path), "-o", str(tmp_path / "run")]) == code
    sentence(capsys)
    assert not (tmp_path / "run").exists()


def test_a_base_that_is_not_there_is_one_sentence(tmp_path, capsys):
    lora = write_lora(tmp_path / "a.safetensors")
    assert run(["audit", str(lora), "--base", str(tmp_path / "nobase"), "-o", str(tmp_path / "run")]) == 2
    sentence(capsys)
    assert run(["audit", str(lora), "--base", "org/name", "-o", str(tmp_path / "run")]) == 64
    assert "--revision" in sentence(capsys)
    assert not (tmp_path / "run").exists()


def test_a_place_that_holds_something_else_is_refused(hostile, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("keep")
    assert run(["audit", str(hostile), "-o", str(tmp_path / "run")]) == 2
    assert "choose another directory" in sentence(capsys)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine.txt"]


def test_the_plan_holds_what_it_takes_to_begin_again(audited):
    arguments = json.loads((audited[2] / "plan.json").read_text())["arguments"]
    assert arguments["base"] is None
    assert arguments["parts"][0].endswith("free_lora.pt")
