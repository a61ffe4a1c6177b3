"""``auditor demo``, ``personalize`` and ``attack``: folders, pages, and what is refused before any work."""

import json

import pytest

from attacks.cli import read_spec
from auditor.cli.demo_pickle import write_hostile_pickle
from auditor.cli.main import run
from auditor.errors import UsageError
from auditor.proving import specimens
from auditor.proving.specimens import DemoSpecimen


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A specimen that takes no model to audit, in place of those that ship."""
    path = write_hostile_pickle(tmp_path / "other.pt")
    monkeypatch.setattr(specimens, "demo_specimens", lambda: [DemoSpecimen("other", "Another pickle", path)])


def test_the_demo_writes_a_page_for_each_and_an_index(shipped, tmp_path, capsys):
    out = tmp_path / "demo"
    assert run(["demo", "-o", str(out)]) == 0
    shown, progress = capsys.readouterr()
    assert shown.count("VERDICT") == 2
    assert shown.count("REJECT") == 2
    assert "index.html in a browser" in shown
    assert "specimen 2 of 2" in progress
    index = (out / "index.html").read_text("utf-8")
    for name in ("other", "hostile-pickle"):
        assert f"{name}/report.html" in index
        assert (out / name / "report.html").is_file()
        assert (out / name / "report.json").is_file()


def test_the_demo_speaks_json(shipped, tmp_path, capsys):
    assert run(["demo", "-o", str(tmp_path / "demo"), "-q", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["decision"] for entry in found] == ["reject", "reject"]


def test_the_demo_writes_over_nothing(tmp_path, capsys):
    (tmp_path / "mine.txt").touch()
    assert run(["demo", "-o", str(tmp_path)]) == 64
    assert "not written over" in capsys.readouterr().err


def test_the_hostile_pickle_is_inert_and_written_once(tmp_path):
    path = write_hostile_pickle(tmp_path / "a.pt")
    assert b"posix\nsystem\n" in path.read_bytes()
    assert b"true" in path.read_bytes()
    with pytest.raises(FileExistsError):
        write_hostile_pickle(path)


def test_attack_refuses_what_cannot_be_meant(tmp_path, capsys):
    assert run(["attack", "rickrollin", "-o", str(tmp_path / "out")]) == 64
    assert "did you mean 'rickrolling'" in capsys.readouterr().err
    (tmp_path / "taken").mkdir()
    assert run(["attack", "rickrolling", "-o", str(tmp_path / "taken")]) == 64
    spec = tmp_path / "spec.yaml"
    spec.write_text("triger: x\n")
    assert run(["attack", "rickrolling", "--spec", str(spec), "-o", str(tmp_path / "out")]) == 64
    assert "did you mean 'trigger'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_spec_is_a_mapping_from_yaml_or_json(tmp_path):
    path = tmp_path / "spec"
    path.write_text('{"steps": 3}')
    assert read_spec(path) == {"steps": 3}
    path.write_text("steps: 3\n")
    assert read_spec(path) == {"steps": 3}
    path.write_text("a: 1\nb: [\n")
    with pytest.raises(UsageError, match=r"line \d"):
        read_spec(path)
    path.write_text("- 1\n")
    with pytest.raises(UsageError, match="mapping"):
        read_spec(path)
    path.write_text("!!python/object/apply:os.system [true]\n")
    with pytest.raises(UsageError):
        read_spec(path)


def test_personalize_refuses_what_cannot_be_meant(tmp_path, capsys):
    assert run(["personalize", "dreambooth-lroa", "--images", ".", "-o", str(tmp_path / "out")]) == 64
    assert "did you mean 'dreambooth-lora'" in capsys.readouterr().err
    assert (
        run(["personalize", "dreambooth-lora", "--images", str(tmp_path / "no"), "-o", str(tmp_path / "out")])
        == 64
    )
    assert "no folder of pictures" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_method_offers_its_parameters(capsys):
    assert run(["personalize", "dreambooth-lora", "--help"]) == 0
    text = capsys.readouterr().out
    for said in (
        "--images",
        "--prompt",
        "--rank",
        "--train-text-encoder / --no-train-text-encoder",
        "--base",
    ):
        assert said in text
