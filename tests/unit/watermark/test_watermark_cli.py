"""The commands as a stranger uses them: marks, answers, exit codes, and one sentence for whatever is wrong."""

import json
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from auditor.cli.main import run


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    """A key, and one picture of the embedded base with its log."""
    root = tmp_path_factory.mktemp("marked")
    key = root / "mark.key"
    assert run(["watermark", "keygen", "-o", str(key)]) == 0
    prompt = ["--prompt", "a picture of a red ball"]
    given = ["--scheme", "gaussian_shading", "--user", "7", "--steps", "10", "--guidance", "1", "--bind"]
    assert run(["watermark", "embed", "--key", str(key), *prompt, *given, "-o", str(root / "out")]) == 0
    return root


@pytest.fixture
def noise_picture(tmp_path):
    path = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    return path


def detect(marked, *images, key="mark.key", more=()):
    scheme = ["--scheme", "gaussian_shading", "--nonces", str(marked / "out" / "issued.jsonl")]
    return ["watermark", "detect", *map(str, images), "--key", str(marked / key), *scheme, *more]


def test_a_marked_picture_is_found_and_an_unmarked_one_is_not(marked, noise_picture, capsys):
    capsys.readouterr()
    picture = marked / "out" / "0000.png"
    code = run(detect(marked, picture, noise_picture, more=["--alpha", "1e-3", "--json"]))
    told = json.loads(capsys.readouterr().out)
    assert [row["decision"] for row in told["pictures"]] == ["marked", "not_marked"]
    assert code == 1
    [line] = (marked / "out" / "issued.jsonl").read_text().splitlines()
    assert told["pictures"][0]["nonce"] == json.loads(line)["nonce"]
    assert told["key"] == json.loads(line)["key"]


def test_another_key_does_not_find_it(marked, tmp_path, capsys):
    from watermark.keys import make_key_file

    other = tmp_path / "other.key"
    make_key_file(other)
    bare = tmp_path / "nonces.txt"
    bare.write_text(json.loads((marked / "out" / "issued.jsonl").read_text())["nonce"])
    arguments = ["--scheme", "gaussian_shading", "--nonces", str(bare), "--alpha", "1e-3"]
    code = run(["watermark", "detect", str(marked / "out" / "0000.png"), "--key", str(other), *arguments])
    assert code == 1
    assert capsys.readouterr().out.startswith("not marked")


def test_the_log_of_another_key_is_told_from_an_unmarked_picture(marked, tmp_path, capsys):
    from watermark.keys import make_key_file

    make_key_file(tmp_path / "other.key")
    arguments = detect(marked, marked / "out" / "0000.png", key=tmp_path / "other.key")
    assert run(arguments) == 64
    assert "of other keys" in capsys.readouterr().err


def test_a_marked_picture_is_traced_or_nobody_is_accused(marked, capsys):
    arguments = detect(marked, marked / "out" / "0000.png", more=["--alpha", "1e-3", "--users", "20"])
    arguments[1] = "trace"
    assert run([*arguments, "--accuse", "0.0009", "--json"]) in (0, 3)
    [row] = json.loads(capsys.readouterr().out)["pictures"]
    assert row["trace"]["best"] == "7"
    assert run([*arguments, "--accuse", "1e-30"]) == 3
    assert "nobody is accused" in capsys.readouterr().out
    assert run([*arguments, "--accuse", "0.5"]) == 64


@pytest.mark.parametrize(
    ("change", "code", "told"),
    [
        ({"image": b"no picture at all"}, 2, "not a readable picture"),
        ({"image": None}, 64, "no picture"),
        ({"key": b""}, 64, "not a watermark key"),
        (
            {"key": b'{"format": "auditor-watermark-key", "version": 1, "id": "00", "key": "AAA'},
            2,
            "cut short",
        ),
        ({"key": None}, 64, "cannot be read"),
        ({"more": ["--model", "/nowhere/at/all"]}, 2, "nowhere"),
        ({"more": ["--scheme", "tail_sing"]}, 64, "did you mean 'tail_sign'"),
        ({"more": ["--alpha", "0"]}, 64, "between 0 and 1"),
        ({"more": ["--payload", "xyz"]}, 64, "not hexadecimal"),
        ({"more": ["--payload", "00" * 99]}, 64, "does not fit"),
        ({"more": ["--nonces", "/nowhere"]}, 64, "cannot be read"),
        ({"more": ["--scheme", "gaussian_shading"]}, 64, "cannot be read blindly"),
        ({"size": 8}, 64, "needs 1,024"),
    ],
    ids=lambda value: None if isinstance(value, (int, str)) else "-".join(value),
)
def test_bad_input_gets_one_sentence_and_is_never_unmarked(marked, tmp_path, capsys, change, code, told):
    image, key = tmp_path / "a.png", tmp_path / "k.key"
    Image.new("RGB", (change.get("size", 64),) * 2, (200, 30, 90)).save(image)
    key.write_bytes((marked / "mark.key").read_bytes())
    key.chmod(0o600)
    for path, name in ((image, "image"), (key, "key")):
        if name in change and change[name] is None:
            path.unlink()
        elif name in change:
            path.write_bytes(change[name])
    capsys.readouterr()
    assert run(["watermark", "detect", str(image), "--key", str(key), *change.get("more", [])]) == code
    out, err = capsys.readouterr()
    assert "marked" not in out
    assert told in err
    assert len(err.strip().splitlines()) == 1
    assert "internal error" not in err


def test_one_broken_file_keeps_no_other_from_being_read(marked, noise_picture, tmp_path, capsys):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"x")
    assert run(detect(marked, broken, noise_picture)) == 2
    out, err = capsys.readouterr()
    assert out.startswith("not marked")
    assert "broken.png" in err


def test_a_level_that_no_picture_can_reach_is_inconclusive(marked, noise_picture, capsys):
    log = marked / "out" / "issued.jsonl"
    code = run(detect(marked, noise_picture, more=["--alpha", "1e-320"]))
    assert code == 3
    assert capsys.readouterr().out.startswith("inconclusive")
    assert log.exists()


def test_a_key_that_others_can_read_is_warned_of(marked, noise_picture, tmp_path, capsys):
    key = tmp_path / "open.key"
    key.write_bytes((marked / "mark.key").read_bytes())
    key.chmod(0o644)
    capsys.readouterr()
    assert run(detect(marked, noise_picture, key=key)) == 1
    assert "chmod 600" in capsys.readouterr().err


def test_certify_counts_and_says_what_holds(capsys):
    assert (
        run(
            ["watermark", "certify", "--scheme", "tail_sign", "--shape", "4x16x16", "--keys", "100", "--json"]
        )
        == 0
    )
    told = json.loads(capsys.readouterr().out)
    assert told["capacity"]["nonce_bits"] == 32
    assert all(row["holds"] and row["n"] == 100 for row in told["rows"])
    assert run(["watermark", "certify", "--shape", "4x4"]) == 64
    assert run(["watermark", "certify", "--shape", "4x4x4"]) == 64


def test_nothing_is_written_over_and_what_is_wrong_is_said_before_drawing(marked, tmp_path, capsys):
    given = ["--prompt", "a", "--key", str(marked / "mark.key")]
    assert run(["watermark", "embed", *given, "-o", str(marked / "out")]) == 64
    assert run(["watermark", "embed", *given, "--payload", "00" * 50, "-o", str(tmp_path / "x")]) == 64
    assert run(["watermark", "embed", *given, "--size", "16", "-o", str(tmp_path / "x")]) == 64
    assert (
        run(["watermark", "embed", *given, "--payload", "00", "--user", "a", "-o", str(tmp_path / "x")]) == 64
    )
    assert not (tmp_path / "x").exists()
    assert run(["watermark", "keygen", "-o", str(marked / "mark.key")]) == 64
    assert stat.S_IMODE((marked / "mark.key").stat().st_mode) == 0o600
    assert "Traceback" not in capsys.readouterr().err


def test_the_key_is_in_nothing_that_is_written(marked):
    secret = json.loads((marked / "mark.key").read_text())["key"]
    for path in (marked / "out").iterdir():
        assert secret.encode() not in Path(path).read_bytes()


def test_the_log_finds_a_picture_by_its_noise_print_on_the_first_rung(marked, capsys):
    capsys.readouterr()
    picture = marked / "out" / "0000.png"
    assert run(detect(marked, picture, more=["--alpha", "1e-2", "--json"])) == 0
    [told] = json.loads(capsys.readouterr().out)["pictures"]
    assert told["method"] == "exact"
    assert told["details"]["noise_print"] is True
    assert told["details"]["steps"] == 0


def changed_log(marked, path, **changes):
    entry = json.loads((marked / "out" / "issued.jsonl").read_text())
    path.write_text(json.dumps(entry | changes) + "\n")
    return str(path)


def test_log_and_binding_speak_for_a_picture_and_against_a_copy(marked, tmp_path, capsys):
    picture, log = marked / "out" / "0000.png", marked / "out" / "issued.jsonl"
    capsys.readouterr()
    asked = ["--alpha", "1e-2", "--bind", "--json", "--issued"]
    assert run(detect(marked, picture, more=[*asked, str(log)])) == 0
    [told] = json.loads(capsys.readouterr().out)["pictures"]
    assert told["witness"]["standing"] == "genuine"
    assert told["witness"]["binding"]["anchor"] is not None
    assert told["witness"]["against"] == ""
    look = json.loads(log.read_text())["look"]
    other = changed_log(marked, tmp_path / "other", look=f"{int(look, 16) ^ (2**64 - 1):016x}")
    assert run(detect(marked, picture, more=["--alpha", "1e-2", "--issued", other])) == 1
    assert "issued for another picture" in capsys.readouterr().out
    never = changed_log(marked, tmp_path / "never", nonce="00" * 12)
    assert run(detect(marked, picture, more=["--alpha", "1e-2", "--issued", never])) == 1
    assert "never issued" in capsys.readouterr().out
    bare = changed_log(marked, tmp_path / "bare", look="")
    assert run(detect(marked, picture, more=[*asked, bare])) == 0
    assert json.loads(capsys.readouterr().out)["pictures"][0]["witness"]["standing"] == "issued"


def test_a_mark_that_hangs_on_no_nonce_is_not_bound(marked, tmp_path, capsys):
    given = ["--key", str(marked / "mark.key"), "--scheme", "tree_ring", "--prompt", "a", "--bind"]
    assert run(["watermark", "embed", *given, "-o", str(tmp_path / "x")]) == 64
    assert "one mark for every picture" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_running_log_takes_the_nonces_of_many_runs(marked, tmp_path):
    log, key = tmp_path / "all.jsonl", str(marked / "mark.key")
    for name in ("a", "b"):
        given = ["--prompt", "a cat", "--steps", "1", "--guidance", "1", "--issued", str(log)]
        assert run(["watermark", "embed", "--key", key, *given, "-o", str(tmp_path / name)]) == 0
        assert not (tmp_path / name / "issued.jsonl").exists()
    assert len(log.read_text().splitlines()) == 2
