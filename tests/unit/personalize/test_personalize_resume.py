"""An interrupted training goes on to the same bytes; a checkpoint of another run is refused."""

import numpy as np
import pytest
from PIL import Image

from auditor.cli.main import run
from auditor.cli.progress import TaskProgress
from auditor.errors import OutputError
from auditor.personalize import CHECKPOINT


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def test_an_interrupted_command_goes_on_to_the_same_file(tiny_folders, photos, tmp_path, monkeypatch, capsys):
    def command(out, *more):
        given = ["--images", str(photos), "--base", str(tiny_folders("sd1")), "-o", str(tmp_path / out)]
        options = ["--word", "<x>", "--init", "ball", "--steps", "120", "--batch", "1", "--device", "cpu"]
        return run(["personalize", "textual-inversion", *given, *options, *more])

    def file(out):
        return (tmp_path / out / "learned_embeds.safetensors").read_bytes()

    assert command("whole") == 0
    shown = TaskProgress.__call__

    def interrupted(self, done, total, label=""):
        shown(self, done, total, label)
        if done == 110:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TaskProgress, "__call__", interrupted)
        assert command("parts") == 130
    assert "go on with 'auditor personalize textual-inversion ... -o" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "parts").iterdir()] == [CHECKPOINT]
    assert command("parts", "--lr", "0.1") == 64
    assert "another recipe, base or data" in capsys.readouterr().err
    assert command("parts") == 0
    assert file("parts") == file("whole")
    assert not (tmp_path / "parts" / CHECKPOINT).exists()
    assert command("parts") == 64
    assert "is not written over" in capsys.readouterr().err


def test_a_save_that_fails_does_not_cost_the_training(tiny_folders, photos, tmp_path, monkeypatch, capsys):
    out, stepped = tmp_path / "out", []

    def command():
        given = ["--images", str(photos), "--base", str(tiny_folders("sd1")), "-o", str(out), "--device", "cpu"]
        return run(["personalize", "textual-inversion", *given, "--word", "<x>", "--steps", "3", "--batch", "1"])

    shown = TaskProgress.__call__

    def watched(self, done, total, label=""):
        stepped.append(done)
        shown(self, done, total, label)

    def full(folder, *_, **__):
        (folder / "learned_embeds.safetensors").write_bytes(b"cut")
        raise OutputError("cannot write 'provenance.json': No space left on device")

    monkeypatch.setattr(TaskProgress, "__call__", watched)
    with monkeypatch.context() as patch:
        patch.setattr("auditor.personalize.textual_inversion.save_provenance", full)
        assert command() == 2
    assert "No space left on device" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == [CHECKPOINT]
    stepped.clear()
    assert command() == 0
    assert not [done for done in stepped if 0 < done < 3], "it trained again"
    assert sorted(path.name for path in out.iterdir()) == ["learned_embeds.safetensors", "provenance.json"]
