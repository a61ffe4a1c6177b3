"""From arguments to an exit code, and from any error to one sentence."""

import errno
import os
import subprocess
import sys

import click
import pytest

from auditor.cli import main as cli
from auditor.cli.main import COMMANDS, run
from auditor.errors import BaseUnavailable


@pytest.fixture
def failing(monkeypatch):
    """A command ``fail`` that raises what it is told."""

    def install(error):
        @click.command()
        @click.pass_context
        def fail(ctx):
            ctx.obj.resume = "auditor audit --resume run"
            raise error

        monkeypatch.setattr(sys.modules[__name__], "fail", fail, raising=False)
        monkeypatch.setitem(cli.app._own, "fail", (f"{__name__}:fail", "fails"))

    return install


def last_line(capsys):
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    return err.strip()


def test_help_lists_every_command_without_importing_one(capsys):
    before = set(sys.modules)
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in COMMANDS)
    assert not {name for name in set(sys.modules) - before if name.startswith("auditor.cli.")}


def test_a_plugin_command_is_described_by_its_module(capsys):
    run(["--help"])
    assert "Craft a known-bad specimen" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_of_a_command_shows_an_example(name, capsys):
    assert run([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"  auditor {name}" in text
    assert "Exit codes" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["scna"], "did you mean 'scan'"),
        (["scan", "--fial-on", "x", "a"], "--fial-on"),
        (["scan"], "Missing argument"),
        (["scan", "--fail-on", "banana", "a"], "banana"),
        (["list", "prboes"], "prboes"),
    ],
)
def test_usage_errors_are_one_sentence_and_64(arguments, said, capsys):
    assert run(arguments) == 64
    assert said in last_line(capsys)


def test_no_arguments_show_the_help_and_are_usage(capsys):
    assert run([]) == 64
    assert "Commands:" in capsys.readouterr().out


def test_our_errors_end_with_their_sentence_and_code(failing, capsys):
    failing(BaseUnavailable("the base is not here; name another with --base"))
    assert run(["fail"]) == 2
    assert last_line(capsys) == "auditor: the base is not here; name another with --base"


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.ENOSPC, "disk is full"), (errno.EACCES, "no permission"), (errno.EIO, "input/output error")],
)
def test_operating_system_errors_become_sentences(failing, capsys, number, said):
    failing(OSError(number, os.strerror(number), "/some/\x1b[2Jplace"))
    assert run(["fail"]) == 2
    line = last_line(capsys)
    assert said in line
    assert "\x1b" not in line


def test_an_unexpected_error_is_no_pass_and_shows_no_traceback(failing, capsys):
    failing(ValueError("odd"))
    assert run(["fail"]) == 2
    assert "bug of the toolkit: ValueError: odd" in last_line(capsys)


def test_debug_shows_the_traceback(failing, capsys):
    failing(ValueError("odd"))
    assert run(["--debug", "fail"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.exceptions.Abort()])
def test_an_interrupt_says_how_to_go_on(failing, capsys, error):
    failing(error)
    assert run(["fail"]) == 130
    assert "auditor audit --resume run" in last_line(capsys)


def test_a_reader_that_leaves_is_no_error():
    code = "import sys; from auditor.cli.main import run; sys.exit(run(['--help']))"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    child.stdout.close()
    _, err = child.communicate(timeout=60)
    assert err == b""
    assert child.returncode == 141
