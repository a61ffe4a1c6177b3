"""Caps on a whole command: bombs of memory and time end with one sentence, code 2, and nothing lost."""

import subprocess
import sys
import textwrap
import threading
import time

import pytest

from auditor.caps import Caps, available_memory, capped, resident_memory
from auditor.cli.main import run
from auditor.errors import MemoryCap, TimeCap

MIB = 1 << 20


def _child(body, *, caps):
    """Runs ``body`` under caps in a fresh interpreter; returns (exit code, stderr, seconds)."""
    code = f"""
import sys, time
from auditor.caps import Caps, capped, resident_memory
from auditor.errors import ResourceCap
try:
    with capped({caps}):
{textwrap.indent(textwrap.dedent(body), "        ")}
except ResourceCap as error:
    print("auditor:", error, file=sys.stderr)
    sys.exit(error.exit_code)
"""
    began = time.monotonic()
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    _, err = child.communicate(timeout=60)
    return child.returncode, err, time.monotonic() - began


def test_memory_that_grows_is_stopped_near_the_cap():
    code, err, _ = _child(
        """
        held = []
        while True:
            held.append(bytearray(4 << 20))
            assert resident_memory() < (1 << 30), "far beyond the cap"
        """,
        caps="Caps(memory_bytes=resident_memory() + (100 << 20))",
    )
    assert code == 2, err
    assert "memory cap of" in err
    assert "--max-memory" in err


def test_one_huge_allocation_ends_the_process_even_while_it_is_being_filled():
    code, err, seconds = _child(
        """
        import numpy
        numpy.ones(40 << 30, dtype=numpy.uint8)
        """,
        caps="Caps(memory_bytes=resident_memory() + (300 << 20))",
    )
    # Either the system refuses it at once, or the watch ends it: never the whole 40 GiB.
    assert code in (1, 2), err
    assert "memory cap" in err or "MemoryError" in err
    assert seconds < 40


@pytest.mark.parametrize(
    "body",
    ["while True: pass", "time.sleep(60)", "import numpy; [numpy.sort(numpy.arange(10**6)) for _ in range(10**6)]"],
)
def test_what_hangs_is_stopped_at_the_time_cap(body):
    code, err, seconds = _child(body, caps="Caps(seconds=0.5)")
    assert code == 2, err
    assert "time cap of 0.5 seconds" in err
    assert seconds < 15


def test_an_error_that_is_swallowed_ends_the_process_after_the_grace():
    code, err, seconds = _child(
        """
        import auditor.caps
        auditor.caps._GRACE = 0.3
        while True:
            try:
                time.sleep(0.01)
            except ResourceCap:
                pass
        """,
        caps="Caps(seconds=0.3)",
    )
    assert code == 2
    assert "time cap" in err
    assert seconds < 15


def test_nothing_is_left_behind():
    import signal

    before = signal.getsignal(signal.SIGUSR1)
    threads = threading.active_count()
    with capped(Caps(memory_bytes=resident_memory() + 4096 * MIB, seconds=60)):
        pass
    assert signal.getsignal(signal.SIGUSR1) is before
    assert threading.active_count() == threads


def test_the_two_caps_are_told_apart():
    with pytest.raises(TimeCap), capped(Caps(seconds=0.1)):
        time.sleep(5)
    with pytest.raises(MemoryCap), capped(Caps(memory_bytes=1)):
        time.sleep(5)


def test_the_system_tells_memory():
    assert 10 * MIB < resident_memory() < 64 * 1024 * MIB
    free = available_memory()
    assert free is None or free > 0


@pytest.mark.parametrize("text", ["", "8Q", "-1", "0", "nan", "inf", "G"])
def test_a_size_that_is_none_is_a_usage_error(text, tmp_path, capsys):
    file = tmp_path / "a.safetensors"
    file.write_bytes(b"x" * 16)
    assert run(["scan", str(file), "--max-memory", text]) == 64
    assert "write it like 512M or 8G" in capsys.readouterr().err


def test_an_error_of_a_cap_names_the_command_that_goes_on(monkeypatch, capsys):
    from auditor.cli import main

    session = main.Session(resume="auditor audit --resume run")
    assert main._told(TimeCap("stopped at the time cap of 2 seconds"), session) == 2
    assert capsys.readouterr().err.endswith("2 seconds; go on with 'auditor audit --resume run'\n")
