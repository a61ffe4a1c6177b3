"""Options that are made from dataclasses, durations, and places."""

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click
import pytest
from click.testing import CliRunner

from auditor.cli.dataclass_options import attribute_help, build_params, options_of
from auditor.cli.options import Duration
from auditor.cli.places import fresh_folder, new_folder, state_dir
from auditor.cli.progress import TaskProgress
from auditor.errors import OutputError, UsageError


@dataclass(frozen=True)
class Recipe:
    """A recipe.

    Attributes:
        prompt: what is learnt, in
            one sentence.
        steps: how many.
        fast: whether to hurry.
        kind: which of two.
        tags: any number of them.
        limit: none by default.
    """

    prompt: str = "a dog"
    steps: int = 120
    fast: bool = False
    kind: Literal["a", "b"] = "a"
    tags: tuple[str, ...] = ()
    limit: float | None = None


def parsed(*arguments):
    seen = {}
    command = click.Command("go", params=options_of(Recipe), callback=lambda **given: seen.update(given))
    done = CliRunner().invoke(command, list(arguments))
    return done, seen


def test_every_field_becomes_an_option_with_its_default():
    done, seen = parsed()
    assert done.exit_code == 0
    assert build_params(Recipe, seen) == Recipe()


def test_values_reach_the_dataclass():
    arguments = ["--steps", "3", "--fast", "--kind", "b", "--tags", "x", "--tags", "y", "--limit", "0.5"]
    done, seen = parsed(*arguments)
    assert done.exit_code == 0
    assert build_params(Recipe, seen) == Recipe(steps=3, fast=True, kind="b", tags=("x", "y"), limit=0.5)


def test_help_comes_from_the_docstring():
    assert attribute_help(Recipe)["prompt"] == "what is learnt, in one sentence."
    assert "What is learnt, in one sentence." in " ".join(parsed("--help")[0].output.split())


def test_unknown_and_wrong_parameters_are_usage_errors():
    with pytest.raises(UsageError, match="did you mean 'steps'"):
        build_params(Recipe, {"stesp": 3})
    with pytest.raises(UsageError, match="steps"):
        build_params(Recipe, {"steps": "many"})


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("1.5h", 5400)])
def test_durations(text, seconds):
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "m", "-1m", "0", "nan", "inf", "ten minutes"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(click.BadParameter):
        Duration().convert(text, None, None)


def test_state_follows_the_xdg_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert state_dir().parent == tmp_path
    monkeypatch.delenv("XDG_STATE_HOME")
    assert state_dir().is_relative_to(Path.home())


def test_a_fresh_folder_is_not_taken(tmp_path):
    assert fresh_folder(tmp_path, "run") == tmp_path / "run"
    (tmp_path / "run").mkdir()
    assert fresh_folder(tmp_path, "run") == tmp_path / "run-2"


def test_nothing_is_written_over(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    with pytest.raises(UsageError, match="not written over"):
        new_folder(tmp_path / "full")
    assert new_folder(tmp_path / "new" / "deep").is_dir()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_an_output_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="choose another place"):
        new_folder(tmp_path / "new")


def test_a_file_where_a_folder_should_be_is_an_output_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        new_folder(tmp_path / "file" / "new")


def test_a_live_loss_makes_no_line_of_its_own():
    out = io.StringIO()
    with TaskProgress("dreambooth", out) as progress:
        for step in range(1, 9):
            progress(step, 8, f"training, loss {1 / step:.4f}")
        progress(1, 2, "saving")
    lines = out.getvalue().splitlines()
    assert [line.rpartition(" ")[2] for line in lines] == ["1/8", "2/8", "4/8", "6/8", "8/8", "1/2"]
    assert lines[0] == "dreambooth: training, loss 1.0000 1/8"
