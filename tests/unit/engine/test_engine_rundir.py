import errno
import json
import os

import pytest
from engine_world import TOOL, FakeSubject, HandClock, finding, gives, make_probe, policy, registry, result

from auditor.engine import audit, files, identical, open_run, read_plan, resume, rundir
from auditor.errors import OutputError, UsageError
from auditor.policy import policy_from_document
from reports.model import Outcome, Tool


def steady(id="t.a", units=3):
    def function(subject, params, run):
        values = [run.unit(f"u{i}", lambda i=i: i * 0.1) for i in range(units)]
        shown = run.evidence("plot", b"picture of " + id.encode(), "image/png", caption="c")
        yield result(id, value=sum(values), evidence=(shown,))

    return make_probe(id, function)


def begin(out, *probes, subject=None, rules=None, **rest):
    known = registry(*(probes or (steady(),)))
    return audit(
        subject or FakeSubject(), policy=rules or policy(), out=out, registry=known, tool=TOOL, **rest
    )


def go_on(out, *probes, subject=None, tool=TOOL, rules=None, **rest):
    rules = rules or policy_from_document(read_plan(out).policy_document)
    return resume(
        out,
        subject or FakeSubject(),
        policy=rules,
        registry=registry(*(probes or (steady(),))),
        tool=tool,
        **rest,
    )


def test_a_run_directory_holds_plan_events_evidence_and_report(tmp_path):
    out = tmp_path / "deep" / "run"
    report = begin(out, arguments={"parts": ["x"]}, operator="me", seed=5)
    assert read_plan(out).arguments == {"parts": ["x"]}
    assert read_plan(out).seed == 5
    finished = open_run(out)
    assert finished.report == report
    assert finished.evidence(report.results[0].evidence[0].sha256) == b"picture of t.a"
    assert [path.suffix for path in (out / "evidence").iterdir()] == [".png"]
    kinds = [json.loads(line)["type"] for line in (out / "events.jsonl").read_text().splitlines()]
    assert kinds == ["run_started", "unit", "unit", "unit", "probe_finished", "run_finished"]


def test_a_finished_run_gives_the_same_bytes_again(tmp_path):
    out = tmp_path / "run"
    begin(out)
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    go_on(out)
    begin(out)
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


def test_an_empty_directory_is_used(tmp_path):
    assert begin(tmp_path).status.value == "success"


def test_a_directory_with_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "precious.txt").write_text("x")
    with pytest.raises(OutputError, match="not empty and not the directory of a run"):
        begin(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


@pytest.mark.parametrize(
    "changed",
    [{"seed": 1}, {"alpha": 0.2}, {"budget": 9.0}, {"subject": FakeSubject(sha256="d" * 64)},
     {"rules": policy(description="other")}],
)  # fmt: skip
def test_a_run_of_another_plan_is_refused(tmp_path, changed):
    begin(tmp_path / "run")
    with pytest.raises(OutputError, match="another plan"):
        begin(tmp_path / "run", **changed)


def test_a_file_in_the_way_is_one_clear_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file is in the way|not a directory"):
        begin(tmp_path / "file" / "run")


def test_without_permission_nothing_is_written(tmp_path, monkeypatch):
    def refused(*args, **rest):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(rundir.Path, "mkdir", refused)
    with pytest.raises(OutputError, match="no permission; choose another directory"):
        begin(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("nth", range(1, 9))
def test_a_full_disk_ends_the_audit_in_one_sentence_and_can_be_resumed(tmp_path, monkeypatch, nth):
    whole = begin(tmp_path / "whole")
    calls = 0
    real = os.write

    def filling(handle, data):
        nonlocal calls
        calls += 1
        if calls >= nth:
            if calls == nth and len(data) > 1:
                real(handle, bytes(data)[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, data)

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "write", filling)
        with pytest.raises(OutputError, match=r"cannot write .*: no space is left on the device"):
            begin(out)
    assert not (out / "report.json").exists()
    assert not [path for path in out.glob(".run-*") if path.name != ".run-lock"]
    assert identical(begin(out), whole)


def test_a_probe_that_swallows_a_full_disk_still_ends_the_audit(tmp_path, monkeypatch):
    def stubborn(subject, params, run):
        for i in range(3):
            try:
                run.unit(f"u{i}", lambda: 1)
            except Exception:
                monkeypatch.undo()
        yield result("t.a")

    def full(handle, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    def breaking(subject, params, run):
        monkeypatch.setattr(files.os, "write", full)
        yield from stubborn(subject, params, run)

    with pytest.raises(OutputError, match="could not be kept"):
        begin(tmp_path / "run", make_probe("t.a", breaking))


def test_two_audits_cannot_write_to_one_directory(tmp_path):
    out = tmp_path / "run"

    def inner(subject, params, run):
        with pytest.raises(OutputError, match="another audit is writing"):
            begin(out, make_probe("t.a", inner))
        yield result("t.a")

    report = begin(out, make_probe("t.a", inner))
    assert report.results[0].outcome is Outcome.PASS


@pytest.mark.parametrize(
    "tail", [b"", b"{", b'{"type":"unit"', b'{"type":"run_finished"}', b"\x00\x00\n", b"[1]\n"]
)
def test_a_torn_last_line_is_dropped(tmp_path, tail):
    out = tmp_path / "run"
    whole = begin(out)
    log = out / "events.jsonl"
    kept = log.read_bytes().splitlines(keepends=True)[:3]
    log.write_bytes(b"".join(kept) + tail)
    assert identical(go_on(out), whole)
    assert b"\x00" not in log.read_bytes()
    assert all(json.loads(line) for line in log.read_bytes().splitlines())


def test_damage_inside_the_log_is_refused(tmp_path):
    out = tmp_path / "run"
    begin(out)
    log = out / "events.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([lines[0], b"garbage\n", *lines[1:]]))
    with pytest.raises(OutputError, match="damaged at line 2"):
        go_on(out)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"subject": FakeSubject(sha256="d" * 64)}, "artifact is not the one"),
        ({"rules": policy(description="other")}, "policy is not the one"),
        ({"tool": Tool(version="9")}, "begun by version 1.2.3"),
    ],
)
def test_resuming_with_something_else_is_a_usage_error(tmp_path, changed, message):
    begin(tmp_path / "run")
    with pytest.raises(UsageError, match=message):
        go_on(tmp_path / "run", **changed)


@pytest.mark.parametrize("content", [None, "", "{}", "[]", '{"plan": 3}'])
def test_what_is_not_a_run_cannot_be_resumed(tmp_path, content):
    if content is not None:
        (tmp_path / "plan.json").write_text(content)
    with pytest.raises(UsageError):
        read_plan(tmp_path)


def test_an_unfinished_run_says_how_to_go_on(tmp_path):
    begin(tmp_path / "run")
    (tmp_path / "run" / "report.json").unlink()
    with pytest.raises(UsageError, match="auditor audit --resume"):
        open_run(tmp_path / "run")


@pytest.mark.parametrize("name", ["../../etc/passwd", "x", "0" * 64])
def test_evidence_is_found_by_hash_only(tmp_path, name):
    begin(tmp_path / "run")
    with pytest.raises(OutputError):
        open_run(tmp_path / "run").evidence(name)


def test_changed_evidence_is_noticed(tmp_path):
    report = begin(tmp_path / "run")
    (path,) = (tmp_path / "run" / "evidence").iterdir()
    path.write_bytes(b"other")
    with pytest.raises(OutputError, match="was changed"):
        open_run(tmp_path / "run").evidence(report.results[0].evidence[0].sha256)


def timed(clock, id, units, seconds=1.0):
    def function(subject, params, run):
        for i in range(units):
            run.unit(f"u{i}", lambda: clock.sleep(seconds))
        yield result(id, value=float(units))

    return make_probe(id, function)


def test_a_spent_budget_stops_before_the_next_unit_and_passes_nothing(tmp_path):
    clock = HandClock()
    probes = [
        timed(clock, "t.a", 2),
        timed(clock, "t.b", 4),
        timed(clock, "t.c", 1),
        make_probe("t.d", gives(result("t.d"))),
    ]
    report = begin(tmp_path / "run", *probes, budget=4.0, clock=clock)
    assert [r.outcome.value for r in report.results] == ["pass", "inconclusive", "inconclusive", "pass"]
    assert "budget was spent" in report.results[1].reason
    assert report.verdict.decision.value == "inconclusive"
    assert clock.time == 4.0


def test_a_budget_stop_is_replayed_by_a_resumed_run(tmp_path):
    def audit_until(events):
        out = tmp_path / str(events)
        clock = HandClock()
        probes = [timed(clock, "t.a", 2), timed(clock, "t.b", 4), timed(clock, "t.c", 1)]
        whole = begin(out, *probes, budget=4.0, clock=clock)
        log = out / "events.jsonl"
        log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:events]))
        return whole, go_on(out, *probes, clock=clock)

    for events in range(1, 9):
        whole, resumed = audit_until(events)
        assert identical(whole, resumed)


def test_a_probe_that_ignores_the_budget_stop_does_not_pass(tmp_path):
    clock = HandClock()

    def stubborn(subject, params, run):
        for i in range(3):
            try:
                run.unit(f"u{i}", lambda: clock.sleep(1.0))
            except Exception:
                break
        yield result("t.a")
        yield finding()

    report = begin(tmp_path / "run", make_probe("t.a", stubborn), budget=1.0, clock=clock)
    assert report.results[0].outcome is Outcome.INCONCLUSIVE
    assert "budget" in report.results[0].reason


def test_large_values_go_to_blobs_and_come_back_exactly(tmp_path):
    done = []

    def large(subject, params, run):
        value = run.unit("big", lambda: done.append(1) or run.rng().random(20_000).tolist())
        value.append(1.0)
        yield result("t.a", value=sum(value))

    probe = make_probe("t.a", large)
    whole = begin(tmp_path / "run", probe)
    log = tmp_path / "run" / "events.jsonl"
    assert log.stat().st_size < 10_000
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:2]))
    assert identical(go_on(tmp_path / "run", probe), whole)
    assert len(done) == 1


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    rundir.write_atomic(path, b"old")

    def full(handle, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "write", full)
    with pytest.raises(OutputError):
        rundir.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_every_event_is_on_the_disk_before_the_probe_goes_on(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(files.os, "fsync", synced.append)

    def counting(subject, params, run):
        for i in range(3):
            before = len(synced)
            run.unit(f"u{i}", lambda: 1)
            assert len(synced) == before + 1
        yield result("t.a")

    assert begin(tmp_path / "run", make_probe("t.a", counting)).results[0].outcome is Outcome.PASS
