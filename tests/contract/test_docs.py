"""The README says what the commands do: every command, every option it shows, every exit code."""

import re
import shlex
from pathlib import Path

import click
import pytest

from auditor.cli.exits import DECISIONS, TABLE
from auditor.cli.main import Session, app, run

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
CONTEXT = click.Context(app, info_name="auditor", obj=Session())
COMMANDS = app.list_commands(CONTEXT)


def shown_commands():
    """Command lines of code blocks in README and of the examples in every help text."""
    texts = re.findall(r"```sh\n(.*?)```", README, re.S)
    texts += [app.get_command(CONTEXT, name).help or "" for name in COMMANDS]
    lines = [line.strip() for text in texts for line in text.splitlines()]
    parts = [part.strip() for line in lines for part in line.split("&&")]
    return sorted({part.partition(" > ")[0] for part in parts if part.startswith("auditor ")})


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_row_with_its_exit_codes(name):
    [row] = re.findall(rf"^\| `auditor {name}\b.*$", README, re.M)
    codes = [int(code) for code in row.rstrip("| ").rpartition("|")[2].split(",")]
    assert codes[0] == 0
    assert set(codes) <= set(TABLE)
    assert 64 in codes
    told = app.get_command(CONTEXT, name).help.partition("Exit codes")[2]
    assert {int(code) for code in re.findall(r"(?<![\w-])(\d+)(?= )", told)} == set(codes)


def test_every_exit_code_and_decision_is_in_the_table():
    section = README.partition("## Read decision and exit code")[2]
    for code in TABLE:
        assert re.search(rf"\| {code} \|", section)
    assert all(f"`{decision}`" in section for decision in DECISIONS)


@pytest.mark.parametrize("line", shown_commands())
def test_every_command_line_shown_is_one_that_exists(line):
    words = [word for word in shlex.split(line)[1:] if word != "--debug"]
    command, context = app, CONTEXT
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name = words.pop(0)
        found = command.get_command(context, name)
        assert found is not None, f"{line}: no command {name}"
        command, context = found, click.Context(found, parent=context, obj=Session())
    known = {
        option
        for parameter in command.get_params(context)
        for option in parameter.opts + parameter.secondary_opts
    }
    for word in words:
        if word.startswith("-") and word != "-":
            assert word.partition("=")[0] in known, f"{line}: {word}"


def test_two_commands_are_what_ci_runs():
    assert "pip install '.[test]' && pytest" in README
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    assert "'.[test]'" in script
    assert "-m pytest" in script


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target:
            assert (ROOT / target).exists(), target


def test_documents_speak_of_the_project_alone():
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", ".ci/run"):
        text = (ROOT / name).read_text("utf-8")
        assert not re.search(r"\bTODO\b|\bFIXME\b|/(?:work|opt|root|home)/", text), name


def test_version_is_the_one_of_the_package(capsys):
    assert run(["--version"]) == 0
    assert re.search(r"\d+\.\d+\.\d+", capsys.readouterr().out)
