"""Trained marks from the command line: marked, found, and refused in one sentence."""

import json

import pytest
from PIL import Image

from auditor.cli.main import run
from watermark.keys import make_key_file


@pytest.fixture(scope="module")
def hidden(tmp_path_factory):
    """Two keys, and one picture with a code of seven bytes under the first."""
    root = tmp_path_factory.mktemp("hidden")
    for name in ("mark.key", "other.key"):
        make_key_file(root / name)
    given = ["--scheme", "safe_sd", "--prompt", "a picture of a red ball", "--steps", "6", "--payload", "00aa11"]
    assert run(["watermark", "embed", "--key", str(root / "mark.key"), *given, "-o", str(root / "out")]) == 0
    return root


def detect(root, path, key="mark.key", *more):
    return ["watermark", "detect", str(path), "--key", str(root / key), "--scheme", "safe_sd", *more]


def test_a_hidden_code_is_found_with_its_key_and_not_with_another(hidden, capsys):
    picture = hidden / "out" / "0000.png"
    capsys.readouterr()
    assert run(detect(hidden, picture, "mark.key", "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["scheme"] == "safe_sd"
    [row] = told["pictures"]
    assert row["decision"] == "marked"
    assert len(row["details"]["qr"]) == 21
    assert run(detect(hidden, picture, "other.key")) == 1
    said = capsys.readouterr()
    assert said.out.startswith("not marked")
    assert "--nonces" not in said.err
    assert run(detect(hidden, picture, "mark.key", "--payload", "00aa1100000000")) == 0


@pytest.mark.parametrize("more", [["--bind"], ["--c2pa"]])
def test_what_rests_on_a_nonce_is_refused_for_marks_without_one(hidden, more, capsys):
    assert run(detect(hidden, hidden / "out" / "0000.png", "mark.key", *more)) == 64
    assert "have no nonce" in capsys.readouterr().err


def test_a_picture_that_holds_no_whole_code_is_an_error_and_not_unmarked(hidden, tmp_path, capsys):
    Image.new("RGB", (32, 32)).save(tmp_path / "small.png")
    assert run(detect(hidden, tmp_path / "small.png")) == 64
    assert "safe_sd needs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--scheme", "safe_sd"], "give it a --prompt"),
        (["--scheme", "safe_sd", "--prompt", "a cat", "--user", "7"], "takes no --bind"),
        (["--scheme", "safe_sd", "--prompt", "a cat", "--payload", "00" * 8], "does not fit"),
        (["--scheme", "decoder", "--prompt", "a cat"], "neither --prompt nor a payload"),
        (["--scheme", "tail_sign"], "--prompt"),
    ],
)
def test_what_does_not_fit_a_scheme_is_refused_and_leaves_no_folder(hidden, tmp_path, given, said, capsys):
    out = tmp_path / "out"
    assert run(["watermark", "embed", "--key", str(hidden / "mark.key"), *given, "-o", str(out)]) == 64
    assert said in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("command", ["stress", "certify"])
def test_commands_that_are_about_noise_say_so(command, capsys):
    assert run(["watermark", command, "--scheme", "decoder"]) == 64
    assert "trained mark" in capsys.readouterr().err
