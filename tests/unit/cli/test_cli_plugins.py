"""list, explain, doctor, report: what they say about what is installed and what was run."""

import importlib.util
import json
from types import SimpleNamespace

import pytest

from auditor.cli.checks import Check, _clash, _writable, run_checks
from auditor.cli.main import run


def test_list_prints_one_line_a_probe(capsys):
    assert run(["list", "probes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("static.file_safety ") for line in lines)


@pytest.mark.parametrize("kind", ["probes", "writers"])
def test_list_json_is_an_array(kind, capsys):
    assert run(["list", kind, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, list)
    assert all(row["id"] and row["goal"] for row in found)


@pytest.mark.parametrize("name", ["static.file_safety", "PMA-FILE-001"])
def test_explain_says_what_to_do(name, capsys):
    assert run(["explain", name]) == 0
    text = capsys.readouterr().out
    assert text.startswith(name)
    assert "What to do" in text


def test_explain_of_an_unknown_id_names_the_closest(capsys):
    assert run(["explain", "static.file_safty"]) == 64
    assert "did you mean 'static.file_safety'" in capsys.readouterr().err


def test_doctor_json_is_an_array_of_checks(capsys):
    code = run(["doctor", "--json"])
    checks = json.loads(capsys.readouterr().out)
    assert {check["name"] for check in checks} >= {
        "auditor",
        "python",
        "torch",
        "device",
        "memory",
        "base",
        "runs",
        "cache",
    }
    assert code == (0 if all(check["ok"] for check in checks) else 2)


def test_doctor_says_what_to_do_about_a_problem(capsys, monkeypatch):
    monkeypatch.setattr(
        "auditor.cli.checks.run_checks", lambda: [Check("base", False, "is not there", "install it again")]
    )
    assert run(["doctor"]) == 2
    text = capsys.readouterr().out
    assert "PROBLEM" in text
    assert "install it again" in text


def test_a_folder_of_another_package_is_seen(tmp_path, monkeypatch):
    other = SimpleNamespace(submodule_search_locations=[str(tmp_path / "watermark")], origin=None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: other)
    check = _clash("watermark", tmp_path / "home")
    assert not check.ok
    assert "belongs to another package" in check.told


def test_a_folder_that_cannot_be_written_is_seen(tmp_path):
    (tmp_path / "file").touch()
    assert not _writable("runs", tmp_path / "file" / "runs").ok
    assert _writable("runs", tmp_path / "new").ok
    assert not (tmp_path / "new").exists()


def test_no_check_raises():
    assert all(check.told for check in run_checks())


def test_report_of_what_is_no_run_is_usage(tmp_path, capsys):
    assert run(["report", str(tmp_path)]) == 64
    assert run(["report", str(tmp_path / "no")]) == 64
    assert run(["report", str(tmp_path), "--as", "htlm"]) == 64
    assert "did you mean 'html'" in capsys.readouterr().err
