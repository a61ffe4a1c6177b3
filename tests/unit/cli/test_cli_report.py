"""``auditor report``: formats, signatures and their exit codes, on the run of a hostile pickle."""

import io
import json
import os
import shutil
import sys
from contextlib import redirect_stdout
from xml.etree import ElementTree

import pytest
from cli_files import write_broken, write_lora
from huggingface_hub import ModelCard
from pyarrow import parquet
from pydantic_sarif.model import StaticAnalysisResultsFormatSarifVersion210JsonSchema as Sarif

from auditor.cli.demo_pickle import write_hostile_pickle
from auditor.cli.main import run

KEYLESS = ("NOT VERIFIED", "anybody can sign anew")


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audited")
    path = write_hostile_pickle(folder / "free_style_lora.pt")
    with redirect_stdout(io.StringIO()):
        assert run(["audit", str(path), "-o", str(folder / "run"), "-q"]) == 1
    return folder / "run"


@pytest.fixture
def finished(audited, tmp_path):
    return shutil.copytree(audited, tmp_path / "run")


@pytest.fixture
def key(tmp_path, capsys):
    assert run(["report", "keygen", "-o", str(tmp_path / "audit.key")]) == 0
    capsys.readouterr()
    return tmp_path / "audit.key"


def told(capsys, *arguments):
    code = run(["report", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def documented(capsys, *arguments):
    code, out, _ = told(capsys, *arguments, "--json")
    return code, json.loads(out)


def test_every_format_is_written_and_its_path_printed(finished, capsys):
    code, out, _ = told(capsys, finished, "--as", "sarif,junit,csv,parquet,card,md,text,html,json")
    assert code == 0
    names = [line.rpartition("/")[2] for line in out.splitlines()]
    suffixes = ("sarif", "xml", "csv", "parquet", "card.md", "md", "txt", "html", "json")
    assert names == [f"report.{suffix}" for suffix in suffixes]
    assert all((finished / name).stat().st_size for name in names)
    ElementTree.parse(finished / "report.xml")
    assert parquet.read_table(finished / "report.parquet").num_rows
    assert ModelCard.load(finished / "report.card.md").data.eval_results


def test_the_hostile_specimen_would_show_in_a_code_scanning_page(finished, capsys):
    code, out, _ = told(capsys, finished, "--as", "sarif", "-o", "-")
    assert code == 0
    body = json.loads(out)
    Sarif.model_validate(body)
    [sarif] = body["runs"]
    [result] = sarif["results"]
    assert (result["ruleId"], result["level"]) == ("PMA-FILE-001", "error")
    [location] = result["locations"]
    assert location["physicalLocation"] == {
        "artifactLocation": {"uri": "free_style_lora.pt", "index": 0},
        "region": {"startLine": 1},
    }
    [rule] = sarif["tool"]["driver"]["rules"]
    assert rule["properties"]["security-severity"] == "9.5"
    assert "external/cwe/cwe-502" in rule["properties"]["tags"]
    assert result["properties"]["probe"] == "static.file_safety"
    assert result["partialFingerprints"]["primaryLocationLineHash"].endswith(":1")


def test_audit_prints_sarif_too(tmp_path, capsys):
    path = write_hostile_pickle(tmp_path / "a.pt")
    assert run(["audit", str(path), "-o", str(tmp_path / "run"), "-q", "--format", "sarif"]) == 1
    Sarif.model_validate(json.loads(capsys.readouterr().out))


def test_scan_puts_all_files_into_one_run(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    write_hostile_pickle(folder / "deep" / "a b.pt")
    write_broken(folder / "broken.safetensors")
    write_lora(folder / "clean.safetensors")
    (folder / "x.gguf").write_bytes(b"GGUF\3\0\0\0" + bytes(16))  # no tensors, no keys
    monkeypatch.chdir(tmp_path)
    assert run(["scan", "in", "--format", "sarif"]) == 2
    out, err = capsys.readouterr()
    body = json.loads(out)
    Sarif.model_validate(body)
    [sarif] = body["runs"]
    found = {
        (each["locations"][0]["physicalLocation"]["artifactLocation"]["uri"], each["ruleId"])
        for each in sarif["results"]
    }
    assert found == {
        ("in/deep/a%20b.pt", "PMA-FILE-001"),
        ("in/broken.safetensors", "audit.incomplete"),
        ("in/x.gguf", "audit.inconclusive"),
    }
    assert len(sarif["artifacts"]) == 4
    assert sarif["invocations"][0]["executionSuccessful"] is False
    assert "broken.safetensors" in err


def test_sign_and_verify_end_with_0(finished, key, capsys):
    code, out, err = told(capsys, "sign", finished, "--key", key)
    assert (code, err) == (0, "")
    assert "report.sig.json" in out
    code, out, _ = told(capsys, "verify", finished, "--key", f"{key}.pub")
    assert code == 0
    assert out.startswith("VERIFIED")


def test_a_changed_file_ends_with_1_and_its_name(finished, key, capsys):
    told(capsys, "sign", finished, "--key", key)
    with (finished / "events.jsonl").open("a") as file:
        file.write("\n")
    code, out, _ = told(capsys, "verify", finished, "--key", f"{key}.pub")
    assert code == 1
    assert out.startswith("TAMPERED")
    assert "changed   events.jsonl" in out
    code, body = documented(capsys, "verify", finished, "--key", f"{key}.pub")
    assert code == 1
    assert (body["status"], body["verified"], body["changed"]) == ("tampered", False, ["events.jsonl"])
    code, _, _ = told(capsys, "verify", finished)
    assert code == 1


def test_without_a_key_it_is_never_verified(finished, key, capsys):
    told(capsys, "sign", finished, "--key", key)
    code, out, _ = told(capsys, "verify", finished)
    assert code == 3
    assert all(said in out for said in KEYLESS)
    assert "\nVERIFIED" not in f"\n{out}"
    code, body = documented(capsys, "verify", finished)
    assert (code, body["status"], body["verified"]) == (3, "unverified_key", False)


def test_another_key_ends_with_1(finished, key, tmp_path, capsys):
    told(capsys, "keygen", "-o", tmp_path / "other.key")
    told(capsys, "sign", finished, "--key", tmp_path / "other.key")
    code, out, _ = told(capsys, "verify", finished, "--key", f"{key}.pub")
    assert code == 1
    assert "signed by another key" in out


def test_no_signature_or_none_that_can_be_read_ends_with_2(finished, key, capsys):
    code, out, err = told(capsys, "verify", finished, "--key", f"{key}.pub")
    assert (code, out) == (2, "")
    assert "is not signed" in err
    (finished / "report.sig.json").write_text("{}")
    code, _, err = told(capsys, "verify", finished, "--key", f"{key}.pub")
    assert code == 2
    assert "is not a signature as this tool writes it" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("verify", "{run}", "--key", "{run}/plan.json"), "is not a public key"),
        (("verify", "{folder}/no"), "there is no run"),
        (("verify",), "Missing argument 'RUN'"),
        (("sign", "{run}"), "Missing option '--key'"),
        (("sign", "{run}", "--key", "{key}.pub"), "is a public key"),
        (("sign", "{folder}", "--key", "{key}"), "is not the directory of a run"),
        (("keygen", "-o", "{key}"), "not written over"),
        (("keygen", "-o", "/"), "is a folder"),
        (("{run}", "--as", "htlm"), "did you mean 'html'"),
        (("{run}", "--as", ","), "names no format"),
        (("{run}", "--as", "md,csv", "-o", "-"), "only one format"),
        (("{folder}",), "is not the directory of a run"),
        (("{folder}/no",), "there is no run"),
        (("--as", "html"), "Missing argument 'RUN'"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_64(finished, key, tmp_path, capsys, arguments, said):
    (tmp_path / "folder").mkdir()
    names = {"run": finished, "key": key, "folder": tmp_path / "folder"}
    code, out, err = told(capsys, *(each.format(**names) for each in arguments))
    assert (code, out) == (64, "")
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_a_missing_package_is_named_and_ends_with_2(finished, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    code, out, err = told(capsys, finished, "--as", "md,parquet")
    assert (code, out) == (2, "")
    assert "pip install 'personalized-model-auditor[parquet]'" in err
    assert not (finished / "report.md").exists()


def test_writing_into_a_signed_run_says_that_it_is_not_signed(finished, key, capsys):
    told(capsys, "sign", finished, "--key", key)
    code, _, err = told(capsys, finished, "--as", "md")
    assert code == 0
    assert "sign it again" in err
    code, out, _ = told(capsys, "verify", finished, "--key", f"{key}.pub")
    assert code == 1
    assert "added     report.md" in out
    assert told(capsys, finished, "--as", "md", "-o", finished.parent / "out")[2] == ""


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_key_that_others_can_read_is_warned_about(finished, key, capsys):
    key.chmod(0o644)
    code, _, err = told(capsys, "sign", finished, "--key", key)
    assert code == 0
    assert "chmod 600" in err


def test_a_run_called_like_a_command_is_reached(finished, tmp_path, capsys, monkeypatch):
    shutil.move(finished, tmp_path / "sign")
    monkeypatch.chdir(tmp_path)
    assert told(capsys, "./sign", "--as", "md")[0] == 0
    assert told(capsys, "--as", "md", "sign")[0] == 0


def test_report_json_stands_for_its_run(finished, capsys):
    assert told(capsys, finished / "report.json", "--as", "md")[0] == 0
    assert (finished / "report.md").is_file()


def test_help_shows_both_options_and_commands(capsys):
    code, out, _ = told(capsys, "--help")
    assert code == 0
    for said in ("auditor report [OPTIONS] RUN | COMMAND", "--as", "keygen", "sign", "verify"):
        assert said in out
    assert told(capsys, "verify", "--help")[0] == 0


def test_names_from_a_hostile_run_are_inert(finished, key, capsys):
    told(capsys, "sign", finished, "--key", key)
    (finished / "\x1b[2Jevil").write_bytes(b"x")
    code, out, err = told(capsys, "verify", finished, "--key", f"{key}.pub")
    assert code == 1
    assert "\x1b" not in out + err
    assert "evil" in out


def test_no_key_is_shown_or_stored_anywhere(finished, tmp_path, capsys):
    shown = told(capsys, "keygen", "-o", tmp_path / "k")
    secret = "".join((tmp_path / "k").read_text().splitlines()[1:-1])
    shown += told(capsys, "sign", finished, "--key", tmp_path / "k")
    assert secret not in str(shown)
    assert all(secret.encode() not in path.read_bytes() for path in finished.rglob("*") if path.is_file())
