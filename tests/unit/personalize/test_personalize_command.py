"""``auditor personalize`` from the command line: recipes in files, notes, and every bad input in one sentence."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from auditor.cli.main import run
from auditor.personalize import CHECKPOINT
from auditor.personalize.blocks import methods
from auditor.personalize.blocks.training import Training
from auditor.registry import METHODS


@pytest.fixture
def command(tiny_folders, folder_of, tmp_path):
    """Runs textual inversion on a small base; gives exit code and output folder."""
    photos = folder_of("photos")

    def call(*more, name="textual-inversion", images=photos, base=None, out="out"):
        short = ["--init", "ball", "--steps", "1", "--batch", "1"] if "--config" not in more else []
        given = ["--images", str(images), "--base", str(base or tiny_folders("sd1")), "--device", "cpu"]
        word = [] if {"--word", "--config"} & {*more} or name != "textual-inversion" else ["--word", "<x>"]
        short = short if name == "textual-inversion" else []
        return run(["personalize", name, *given, *short, *word, *more, "-o", str(tmp_path / out)]), tmp_path / out

    return call


def one_sentence(capsys):
    said = capsys.readouterr()
    assert said.out == ""
    lines = [line for line in said.err.splitlines() if line.startswith("auditor: ")]
    assert len(lines) == 1 and "internal error" not in lines[0]
    return lines[0]


# Recipes in files


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_a_recipe_is_read_from_a_file_and_the_command_line_wins(command, tmp_path, suffix):
    file = tmp_path / f"recipe.{suffix}"
    told = {"word": "<y>", "init": "ball", "steps": 2, "batch": 1, "lr": 1e-3, "validate-every": 0, "consent": "Ann"}
    file.write_text(json.dumps(told) if suffix == "json" else "\n".join(f"{k}: {v!r}" for k, v in told.items()))
    code, out = command("--config", str(file), "--steps", "1", "--seed", "0")
    assert code == 0
    sidecar = json.loads((out / "provenance.json").read_text())
    assert {k: sidecar["params"][k] for k in ("word", "steps", "lr", "vectors", "seed")} == {
        "word": "<y>", "steps": 1, "lr": 1e-3, "vectors": 1, "seed": 0,
    }  # fmt: skip
    assert sidecar["consent"] == "Ann"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("r.yaml", "stesp: 3", "unknown key 'stesp'; did you mean 'steps'?"),
        ("r.yaml", "steps: many", "parameter 'steps': Input should be a valid integer"),
        ("r.yaml", "steps: 1.5", "parameter 'steps': Input should be a valid integer"),
        ("r.yaml", "precision: fp8", "parameter 'precision': Input should be 'fp32', 'bf16' or 'fp16'"),
        ("r.yaml", "steps: 3\nsteps: 4", "line 2: the key 'steps' occurs twice"),
        ("r.yaml", "validate-every: 3\nvalidate_every: 4", "the key 'validate_every' twice"),
        ("r.yaml", "- steps", "no mapping of keys to values"),
        ("r.yaml", "steps: [", "not YAML"),
        ("r.json", "{", "not valid JSON"),
        ("r.json", "[1]", "no mapping of keys to values"),
        ("r.json", None, "cannot read the recipe"),
        ("r.yaml", None, "cannot read the recipe"),
    ],
)
def test_a_recipe_that_cannot_be_used_is_told_in_one_sentence(command, tmp_path, capsys, name, text, said):
    if text is not None:
        (tmp_path / name).write_text(text)
    code, out = command("--config", str(tmp_path / name))
    assert code == 64 and not out.exists()
    assert said in one_sentence(capsys)


def test_the_example_in_the_help_is_a_recipe(tmp_path, capsys, command):
    for name in METHODS.names():
        assert run(["personalize", name, "--help"]) == 0
        shown = capsys.readouterr().out.partition("recipe.yaml says:\n")[2].partition("\n\n")[0]
        file = tmp_path / f"{name}.yaml"
        file.write_text("\n".join(line.strip() for line in shown.splitlines()) + "\nwrongkey: 1")
        code, _ = command("--config", str(file), name=name)
        assert code == 64 and "unknown key 'wrongkey'" in one_sentence(capsys)


def test_no_recipe_has_a_field_that_is_called_like_an_option_of_the_run():
    own = {*Training.__dataclass_fields__, "images", "out", "config", "base", "revision", "device", "allow_download"}
    for method in METHODS:
        assert not own & {*method.params.__dataclass_fields__}


# Notes


def test_a_person_without_a_note_is_a_warning_and_recorded(command, capsys):
    code, out = command("--init", "man")
    assert code == 0
    said = capsys.readouterr()
    assert "the recipe speaks of a person (man), and no consent is noted" in said.err and "--consent" in said.err
    assert said.out.strip() == str(out / "learned_embeds.safetensors")
    assert json.loads((out / "provenance.json").read_text())["consent"] == "none given"
    code, out = command("--init", "man", "--consent", "Ann, 2026-01-02, for this test", "--licence", "own", out="two")
    assert code == 0 and "consent" not in capsys.readouterr().err
    told = json.loads((out / "provenance.json").read_text())
    assert (told["consent"], told["licence"]) == ("Ann, 2026-01-02, for this test", "own")


# Bad input


def test_bad_pictures_are_named(command, tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    for images, said in (
        (tmp_path / "gone", "there is no folder of pictures"),
        (empty, "holds no images (.bmp, .jpeg, .jpg, .png, .webp)"),
    ):
        code, out = command(images=images)
        assert code == 64 and not out.exists()
        assert said in one_sentence(capsys)


def test_one_corrupt_picture_among_good_ones(command, folder_of, capsys):
    photos = folder_of("mixed")
    whole = (photos / "0.png").read_bytes()
    (photos / "5\x1b.png").write_bytes(whole[: len(whole) // 2])
    code, out = command(images=photos)
    assert code == 64 and not out.exists()
    said = one_sentence(capsys)
    assert "'5\\u001b.png' is not a readable image; take it out" in said and "--skip-unreadable" in said
    code, out = command("--skip-unreadable", images=photos)
    assert code == 0
    assert len(json.loads((out / "provenance.json").read_text())["images"]) == 2


def test_pictures_of_wildly_different_sizes_work(command, tmp_path):
    photos = tmp_path / "sizes"
    photos.mkdir()
    for i, (size, mode) in enumerate((((1, 1), "RGB"), ((1500, 2), "L"), ((3, 900), "RGBA"), ((40, 30), "P"))):
        Image.new(mode, size, 120 if mode in "LP" else (200, 10, 10, 90)[: len(mode)]).save(photos / f"{i}.png")
    code, out = command(images=photos)
    assert code == 0
    assert len(json.loads((out / "provenance.json").read_text())["images"]) == 4


def test_a_word_of_the_vocabulary_is_refused(command, capsys):
    code, out = command("--word", "cat")
    assert code == 64 and not out.exists()
    assert "'cat' is in the vocabulary of the base already; choose a new word" in one_sentence(capsys)


def test_a_base_that_is_not_there_is_named(command, tmp_path, capsys):
    for base, code, said in (
        (tmp_path / "nowhere", 2, "is not a diffusers model folder"),
        ("org/model", 64, "needs a pinned --revision"),
    ):
        got, out = command(base=base)
        assert got == code and not out.exists()
        assert said in one_sentence(capsys)


def test_a_method_for_other_bases_is_a_usage_error(command, tiny_folders, capsys):
    code, out = command(base=tiny_folders("flux"))
    assert code == 64 and not out.exists()
    assert "for it there are diffusekrona, dreambooth-lora, orthogonal-adaptation" in one_sentence(capsys)


@pytest.mark.parametrize("when", [0, 2])
def test_short_memory_ends_with_code_2_and_leaves_nothing(command, capsys, monkeypatch, when):
    from auditor.personalize import textual_inversion

    monkeypatch.setattr("auditor.personalize.blocks.validation.STEPS", 4)
    whole, calls = textual_inversion.denoising_error, []

    def short(*args):
        calls.append(1)
        if len(calls) > when:
            torch.empty(10**14)
        return whole(*args)

    monkeypatch.setattr(textual_inversion, "denoising_error", short)
    looking = ["--validate-every", "1", "--validate-prompt", "a <x>", "--steps", "4", "--batch", "2"]
    code, out = command(*looking)
    assert code == 2 and not out.exists()
    assert "out of memory: lower --batch from 2 to 1 with --accumulate 2, then add" in one_sentence(capsys)


def test_a_base_that_does_not_fit_is_said_so(command, capsys, monkeypatch):
    def load(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("auditor.pipeline.open.load_base", load)
    code, out = command()
    assert code == 2 and not out.exists()
    assert "the base alone does not fit" in one_sentence(capsys)
    assert methods.is_memory(MemoryError())


def test_a_folder_with_other_files_is_not_taken_for_one_that_was_begun(command, tmp_path, capsys):
    out = tmp_path / "out"
    (out / "validation").mkdir(parents=True)
    (out / "validation" / "mine.png").write_bytes(b"")
    code, _ = command()
    assert code == 64 and "is not written over" in one_sentence(capsys)
    assert (out / "validation" / "mine.png").exists()


def test_a_folder_that_was_begun_is_gone_on_with_and_its_pictures_are_kept(command, tmp_path, capsys):
    out = tmp_path / "out"
    (out / "validation").mkdir(parents=True)
    (out / "validation" / "step-00000.png").write_bytes(b"")
    (out / CHECKPOINT).write_bytes(b"cut")
    code, _ = command()
    assert code == 2 and "is damaged; remove it to start again" in one_sentence(capsys)
    assert (out / "validation" / "step-00000.png").exists() and (out / CHECKPOINT).exists()


def test_options_are_described_once_for_all_methods(capsys):
    texts = []
    for name in METHODS.names():
        assert run(["personalize", name, "--help"]) == 0
        texts.append(" ".join(capsys.readouterr().out.partition("--accumulate")[2].split()))
        assert "adamw8bit" in texts[-1] and "--gradient-checkpointing" in texts[-1]
    assert len(set(texts)) == 1
    assert np.all([len(text) > 100 for text in texts])
