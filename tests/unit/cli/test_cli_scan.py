"""``auditor scan``: what it prints, what it decides, how it ends."""

import json
import zipfile

import pytest
from cli_files import write_broken, write_lora

from auditor.cli.demo_pickle import write_hostile_pickle
from auditor.cli.main import run
from reports.model import AuditReport


def scanned(capsys, *arguments):
    code = run(["scan", *map(str, arguments), "--json"])
    return code, [AuditReport.model_validate(entry) for entry in json.loads(capsys.readouterr().out)]


def test_text_names_what_the_file_is(tmp_path, capsys):
    path = write_lora(tmp_path / "a.safetensors", metadata={"ss_network_dim": "4"})
    assert run(["scan", str(path)]) == 0
    text = capsys.readouterr().out
    for said in (
        "adapter",
        "diffusers dialect",
        "sd1",
        "4 (1 modules)",
        "F16",
        "ss_network_dim = 4",
        "agrees",
    ):
        assert said in text
    assert "accept_with_conditions" in text


def test_json_is_an_array_of_typed_reports(tmp_path, capsys):
    first, second = write_lora(tmp_path / "a.safetensors"), write_lora(tmp_path / "b.safetensors", rank=8)
    code, reports = scanned(capsys, first, second)
    assert code == 0
    assert [report.subject.artifacts[0].rank for report in reports] == ["4 (1 modules)", "8 (1 modules)"]
    assert all(report.limitations for report in reports)
    assert len({report.id for report in reports}) == 2


def test_a_label_that_contradicts_the_tensors_is_a_finding(tmp_path, capsys):
    wrong = {"ss_base_model_version": "sdxl_base_v1-0", "ss_network_dim": "64"}
    code, [report] = scanned(capsys, write_lora(tmp_path / "a.safetensors", metadata=wrong))
    assert code == 1
    assert report.verdict.decision == "review"
    assert {finding.rule_id for finding in report.findings} == {"PMA-CLAIM-001"}
    assert [finding.severity for finding in report.findings] == ["medium", "low"]


def test_fail_on_moves_the_gate(tmp_path, capsys):
    path = write_lora(tmp_path / "a.safetensors", metadata={"ss_base_model_version": "sdxl_base_v1-0"})
    assert run(["scan", str(path), "--fail-on", "quarantine"]) == 0
    assert run(["scan", str(path), "--fail-on", "review"]) == 1


def test_fingerprints_survive_relabelling(tmp_path, capsys):
    wrong = {"ss_base_model_version": "sdxl_base_v1-0"}
    first = write_lora(tmp_path / "a.safetensors", metadata=wrong)
    second = write_lora(tmp_path / "b.safetensors", metadata=wrong | {"ss_output_name": "another"})
    _, reports = scanned(capsys, first, second)
    assert reports[0].findings[0].fingerprint == reports[1].findings[0].fingerprint


def test_a_hostile_pickle_is_rejected_and_never_run(tmp_path, capsys):
    path = write_hostile_pickle(tmp_path / "lora.pt")
    code, [report] = scanned(capsys, path)
    assert code == 1
    assert report.verdict.decision == "reject"
    finding = report.findings[0]
    assert (finding.rule_id, finding.severity) == ("PMA-FILE-001", "critical")
    assert "posix.system" in finding.why
    assert {"CWE-502", "AML.T0011.000"} <= {reference.id for reference in finding.refs}
    assert all(reference.edition for reference in finding.refs)


def test_a_broken_file_is_an_audit_error_that_names_it(tmp_path, capsys):
    path = write_broken(tmp_path / "bad.safetensors")
    assert run(["scan", str(path)]) == 2
    assert "bad.safetensors" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [("x.gguf", b"GGUF\3\0\0\0", "GGUF"), ("page.bin", b"<html><body>sign in</body></html>", "HTML")],
)
def test_an_unsupported_kind_is_named_and_ends_with_4(tmp_path, capsys, name, data, said):
    path = tmp_path / name
    path.write_bytes(data)
    assert run(["scan", str(path)]) == 4
    assert said in capsys.readouterr().err


def test_a_missing_and_an_empty_file_are_usage(tmp_path, capsys):
    assert run(["scan", str(tmp_path / "no")]) == 64
    assert "there is no" in capsys.readouterr().err
    (tmp_path / "empty.safetensors").touch()
    assert run(["scan", str(tmp_path / "empty.safetensors")]) == 64
    assert "is empty" in capsys.readouterr().err


def test_a_folder_stands_for_the_weights_in_it(tmp_path, capsys):
    write_lora(tmp_path / "a.safetensors")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "deep").mkdir()
    write_hostile_pickle(tmp_path / "deep" / "b.pt")
    code, reports = scanned(capsys, tmp_path)
    assert code == 1
    assert [report.verdict.decision for report in reports] == ["accept_with_conditions", "reject"]


def test_a_folder_without_a_model_ends_with_4(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("hello")
    assert run(["scan", str(tmp_path)]) == 4
    assert "holds no model" in capsys.readouterr().err


def test_the_worst_code_of_several_files_wins(tmp_path, capsys):
    write_hostile_pickle(tmp_path / "a.pt")
    write_broken(tmp_path / "b.safetensors")
    code, reports = scanned(capsys, tmp_path)
    assert code == 2
    assert {report.status for report in reports} == {"success", "error"}


def test_code_in_a_model_folder_is_a_finding(tmp_path, capsys):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    (tmp_path / "pipeline.py").write_text("print('never run')")
    code, [report] = scanned(capsys, tmp_path)
    assert code == 1
    assert "PMA-FILE-008" in {finding.rule_id for finding in report.findings}


def test_hostile_names_are_inert(tmp_path, capsys):
    path = write_lora(tmp_path / "a\x1b[2J.safetensors", metadata={"ss_output_name": "\x1b]0;owned\x07"})
    run(["scan", str(path)])
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err


def test_an_ordinary_zip_is_not_called_a_pickle(tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    code, [report] = scanned(capsys, tmp_path / "a.zip")
    assert code == 4
    assert report.findings == ()


def test_safety_only_says_the_same_of_safety_and_nothing_of_meaning(tmp_path, capsys):
    write_lora(tmp_path / "a.safetensors", metadata={"ss_base_model_version": "sdxl_base_v1-0"})
    write_hostile_pickle(tmp_path / "b.pt")
    _, full = scanned(capsys, tmp_path)
    code, quick = scanned(capsys, tmp_path, "--safety-only")
    assert code == 1
    assert [report.verdict.decision for report in quick] == ["accept_with_conditions", "reject"]
    assert [report.subject.artifacts[0].kind for report in quick] == ["weights", "refused"]
    assert "not looked at" in quick[0].verdict.reasons[0]
    assert [report.subject.artifacts[0].sha256 for report in quick] == [
        report.subject.artifacts[0].sha256 for report in full
    ]
    assert full[1].findings == quick[1].findings


def test_many_files_are_told_in_order_and_as_alone(tmp_path, capsys):
    names = [f"{i}.safetensors" for i in range(9)]
    for i, name in enumerate(names):
        write_lora(tmp_path / name, rank=1 + i)
    write_hostile_pickle(tmp_path / "9.pt")
    _, together = scanned(capsys, tmp_path)
    alone = [scanned(capsys, tmp_path / name)[1][0] for name in [*names, "9.pt"]]
    assert [r.model_dump(exclude={"created"}) for r in together] == [
        r.model_dump(exclude={"created"}) for r in alone
    ]
