"""An interrupted training goes on to the same bytes; a checkpoint of another run is refused."""

import numpy as np
import pytest
from PIL import Image

from auditor.cli.main import run
from auditor.cli.progress import TaskProgress
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
