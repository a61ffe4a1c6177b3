import io
import subprocess
import sys

import numpy as np
import pytest
from engine_world import TOOL, FakeSubject, make_probe, policy, registry, result

from auditor.engine import (
    PlainDisplay,
    QuietDisplay,
    RichDisplay,
    audit,
    cached_arrays,
    cached_bytes,
    cached_json,
    choose_display,
)
from auditor.engine.cache import cache_directory
from reports.model import Outcome


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(display):
    def function(subject, params, run):
        run.progress(1, 2, "[red]half\x1b[2J")
        yield result("t.a", Outcome.INCONCLUSIVE, reason="because \x1b[31m")

    audit(
        FakeSubject(),
        policy=policy(),
        registry=registry(make_probe("t.a", function)),
        tool=TOOL,
        display=display,
    )


def test_a_pipe_gets_one_plain_line_per_probe(capsys):
    stream = io.StringIO()
    shown(choose_display(stream=stream))
    assert stream.getvalue() == "[1/1] t.a inconclusive (0.0 s): because \\u001b[31m\n"
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_bars_and_hostile_text_stays_inert(capsys, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    shown(choose_display(stream=stream))
    assert "inconclusive  t.a" in stream.getvalue()
    assert "\x1b[2J" not in stream.getvalue()
    assert capsys.readouterr() == ("", "")


def test_displays_are_chosen_by_where_they_go():
    assert isinstance(choose_display(stream=Terminal()), RichDisplay)
    assert isinstance(choose_display(stream=io.StringIO()), PlainDisplay)
    assert type(choose_display(quiet=True, stream=Terminal())) is QuietDisplay


def test_bars_are_taken_away_when_the_audit_fails(monkeypatch):
    display, closed = RichDisplay(Terminal()), []

    def interrupted(subject, params, run):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(display, "close", lambda: closed.append(1))
    known = registry(make_probe("t.a", interrupted))
    with pytest.raises(KeyboardInterrupt):
        audit(FakeSubject(), policy=policy(), registry=known, tool=TOOL, display=display)
    assert closed == [1]
    RichDisplay.close(display)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AUDITOR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_value_is_computed_once_per_key(cache):
    calls = []
    for _ in range(2):
        value = cached_json(["embed", 1, "x"], lambda: calls.append(1) or {"a": (1, 0.1)})
        assert value == {"a": [1, 0.1]}
    cached_json(["embed", 2, "x"], lambda: calls.append(1))
    assert len(calls) == 2


def test_arrays_come_back_bit_for_bit(cache):
    arrays = {"a": np.random.default_rng(0).random((3, 2)).astype(np.float32), "b": np.arange(3)}
    cached_arrays(["k"], lambda: arrays)
    again = cached_arrays(["k"], lambda: {})
    assert all(np.array_equal(again[n], arrays[n]) and again[n].dtype == arrays[n].dtype for n in arrays)
    with pytest.raises(ValueError, match="allow_pickle"):
        cached_arrays(["objects"], lambda: {"o": np.array([object()])})


@pytest.mark.parametrize("damage", [b"", b"short", b"x" * 64])
def test_a_damaged_entry_is_computed_again(cache, damage):
    cached_bytes(["k"], lambda: b"value")
    (entry,) = [path for path in cache.rglob("*") if path.is_file()]
    entry.write_bytes(damage)
    assert cached_bytes(["k"], lambda: b"value") == b"value"


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AUDITOR_CACHE", str(tmp_path / "file"))
    assert cached_bytes(["k"], lambda: b"value") == b"value"


def test_the_cache_is_outside_the_tree_by_default(monkeypatch):
    monkeypatch.delenv("AUDITOR_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert str(cache_directory()) == "/elsewhere/personalized-model-auditor"


def test_the_engine_imports_neither_torch_nor_scipy_nor_rich():
    code = (
        "import sys, auditor.engine, auditor.policy, auditor.banks; "
        "print([m for m in ('torch', 'scipy', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
