"""Many files through one guard: told the same as alone, whatever a neighbour does to its own process."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from artifact_judging import report_of

from auditor.artifact.limits import Limits
from auditor.artifact.pickle_guard import Guard, PickleReport, inspect_and_convert, inspect_pickle
from auditor.artifact.pickle_guard.report import report_to_json
from auditor.artifact.sniff import Kind, sniff
from auditor.errors import AuditorError, UnsupportedArtifact
from auditor.proving.scan import craft
from auditor.proving.scan.hostile import HOSTILE

LIGHT = [each for each in HOSTILE if each.theme not in ("bomb", "folder", "header", "text")]


def _plain(report: PickleReport) -> str:
    return json.dumps(report_to_json(report), sort_keys=True)


def test_the_whole_zoo_reads_the_same_in_one_guard_as_in_process(tmp_path: Path) -> None:
    with Guard() as guard:
        for specimen in LIGHT:
            path = specimen.write(tmp_path)
            try:
                expected = _plain(report_of(specimen.data))
            except UnsupportedArtifact:
                with pytest.raises(UnsupportedArtifact):
                    inspect_pickle(path, guard=guard)
                continue
            assert _plain(inspect_pickle(path, guard=guard)) == expected, specimen.slug


def test_one_by_one_is_the_same_as_in_a_row(tmp_path: Path) -> None:
    some = LIGHT[:: len(LIGHT) // 6]
    paths = [specimen.write(tmp_path) for specimen in some]
    alone = [_plain(inspect_pickle(path)) for path in paths]
    with Guard() as guard:
        assert [_plain(inspect_pickle(path, guard=guard)) for path in paths] == alone


def test_a_file_that_takes_its_process_down_hides_no_neighbour(tmp_path: Path) -> None:
    (tmp_path / "hungry").write_bytes(craft.pickled(b"(", b"]" * 1_500_000, b"t"))
    (tmp_path / "endless").write_bytes(craft.pickled(b"N0" * 10_000_000, b"N"))
    (tmp_path / "evil").write_bytes(craft.pickled(craft.PAYLOAD))
    (tmp_path / "fine").write_bytes(craft.embedding_file())
    tight, short = Limits(memory_bytes=80 << 20), Limits(seconds=1, pickle_opcodes=10**9)
    with Guard() as guard:
        told = [
            inspect_pickle(tmp_path / name, limits, guard).verdict
            for name, limits in (
                *(("hungry", tight), ("fine", Limits()), ("endless", short), ("evil", Limits())),
                ("fine", Limits()),
            )
        ]
    assert told == ["limit", "allowed", "limit", "disallowed", "allowed"]


def test_a_process_reads_on_only_while_everything_is_allowed(tmp_path: Path) -> None:
    """A file that is anything but allowed is the last of its process, and one at a limit is read again alone."""
    (tmp_path / "fine").write_bytes(craft.embedding_file())
    (tmp_path / "evil").write_bytes(craft.pickled(craft.PAYLOAD))
    (tmp_path / "hungry").write_bytes(craft.pickled(b"(", b"]" * 1_500_000, b"t"))
    tight = Limits(memory_bytes=80 << 20)
    asked: list[tuple[int, bool]] = []
    with Guard() as guard:
        plain = guard._ask

        def noted(fd: int, limits: Limits, out: int | None, alone: bool = False) -> Any:
            asked.append((guard._read, alone))
            return plain(fd, limits, out, alone)

        guard._ask = noted  # type: ignore[method-assign]
        names = ["fine", "fine", "evil", "fine", "hungry", "fine"]
        told = [inspect_pickle(tmp_path / name, tight, guard).verdict for name in names]
    assert told == ["allowed", "allowed", "disallowed", "allowed", "limit", "allowed"]
    assert asked == [(0, False), (1, False), (2, False), (0, False), (1, False), (0, True), (0, False)]


def test_a_process_is_renewed_after_its_number_of_files(tmp_path: Path) -> None:
    (tmp_path / "fine").write_bytes(craft.embedding_file())
    with Guard() as guard:
        read = []
        for _ in range(70):
            read.append(guard._read)
            assert inspect_pickle(tmp_path / "fine", guard=guard).verdict == "allowed"
    assert read == [i % 32 for i in range(70)]


def test_a_guard_whose_server_is_gone_says_so_and_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "fine"
    path.write_bytes(craft.embedding_file())
    with Guard() as guard:
        assert inspect_pickle(path, guard=guard).verdict == "allowed"
        server: Any = guard._server
        os.killpg(server.pid, 9)
        server.wait()
        with pytest.raises(AuditorError, match="was not examined"):
            inspect_pickle(path, guard=guard)
        assert inspect_pickle(path, guard=guard).verdict == "allowed"


def test_no_process_outlives_the_guard(tmp_path: Path) -> None:
    path = tmp_path / "fine"
    path.write_bytes(craft.embedding_file())
    guard = Guard()
    inspect_pickle(path, guard=guard)
    server: Any = guard._server
    guard.close()
    assert server.poll() is not None
    guard.close()


def test_too_long_by_the_clock_is_a_limit_and_the_next_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "fine"
    path.write_bytes(craft.embedding_file())
    with Guard() as guard:
        inspect_pickle(path, guard=guard)
        monkeypatch.setattr("auditor.artifact.pickle_guard.guard._wait", lambda *_: False)
        report = inspect_pickle(path, guard=guard)
        monkeypatch.undo()
        assert report.verdict == "limit"
        assert "time" in report.problems[0].detail
        assert inspect_pickle(path, guard=guard).verdict == "allowed"


def test_what_is_reported_and_what_is_converted_are_one_reading(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(craft.embedding_file())
    (tmp_path / "b").write_bytes(craft.pickled(b"N"))
    (tmp_path / "c").write_bytes(craft.pickled(craft.PAYLOAD))
    with Guard() as guard:
        report, converted = inspect_and_convert(tmp_path / "a", tmp_path, guard=guard)
        assert report.verdict == "allowed"
        assert isinstance(converted, Path)
        assert sniff(converted).kind is Kind.SAFETENSORS
        report, none = inspect_and_convert(tmp_path / "b", tmp_path, guard=guard)
        assert report.verdict == "allowed"
        assert isinstance(none, UnsupportedArtifact)
        report, none = inspect_and_convert(tmp_path / "c", tmp_path, guard=guard)
        assert report.verdict == "disallowed"
        assert none is None
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["a", "b", "c", Path(str(converted)).name])


def test_raw_numbers_that_spell_an_instruction_raise_no_alarm() -> None:
    # PROTO 2, two numbers, BUILD: a machine would stop there, and nothing has been named.
    noise = b"\x80\x02K\x01K\x02b." + bytes(8)
    assert report_of(craft.torch_zip(craft.embedding_pickle(), {"0": noise})).verdict == "allowed"
