"""Ordinary files pass, limits hold, and nothing is ever executed."""

from __future__ import annotations

import json
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from artifact_judging import report_of
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.artifact.limits import Limits
from auditor.artifact.pickle_guard import convert_allowed, inspect_pickle
from auditor.artifact.pickle_guard.values import Call, Dict
from auditor.artifact.pickle_guard.walker import walk
from auditor.errors import RefusedArtifact, UnsupportedArtifact, UsageError
from auditor.proving.scan import craft


def test_raw_numbers_that_begin_like_a_pickle_raise_no_alarm() -> None:
    data = craft.torch_zip(craft.embedding_pickle(), {"0": b"\x80\x02\xff\xff" + bytes(12)})
    assert report_of(data).verdict == "allowed"


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_every_protocol_are_allowed(protocol: int) -> None:
    values = {
        "w": np.arange(6.0).reshape(2, 3),
        "s": np.float32(1),
        "set": {1},
        "o": OrderedDict(a=1),
        "b": b"xyz",
    }
    assert report_of(pickle.dumps(values, protocol=protocol)).verdict == "allowed"


def test_what_torch_saves_is_allowed(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).to(torch.float16)
    for legacy in (True, False):
        for protocol in (2, 4):
            path = tmp_path / f"{legacy}{protocol}.bin"
            torch.save(
                module.state_dict(), path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy
            )
            assert inspect_pickle(path).verdict == "allowed"
    torch.save(module, tmp_path / "module.pt")
    report = inspect_pickle(tmp_path / "module.pt")
    assert report.verdict == "disallowed"
    assert {ref.module for ref in report.globals if not ref.allowed} >= {"torch.nn.modules.linear"}


class _Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def test_nothing_is_executed(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps({"x": _Canary(canary)}))
    report = inspect_pickle(path)
    assert report.verdict == "disallowed"
    with pytest.raises(RefusedArtifact, match="mkdir"):
        convert_allowed(path, tmp_path)
    assert not canary.exists()
    pickle.loads(path.read_bytes())
    assert canary.exists(), "the canary must be able to sing"


def test_the_subprocess_is_stopped_at_its_limits(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(craft.pickled(b"(", b"]" * 1_500_000, b"t"))
    assert inspect_pickle(path, Limits(memory_bytes=80 << 20)).verdict == "limit"
    path.write_bytes(craft.pickled(b"N0" * 10_000_000, b"N"))
    assert inspect_pickle(path, Limits(seconds=1, pickle_opcodes=10**9)).verdict == "limit"


def test_other_files_are_unsupported_or_missing(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a photo")
    with pytest.raises(UnsupportedArtifact, match="text"):
        inspect_pickle(tmp_path / "a")
    with pytest.raises(UsageError):
        inspect_pickle(tmp_path / "b")
    with pytest.raises(RefusedArtifact):
        inspect_pickle(tmp_path)


def test_a_report_says_where(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(craft.torch_zip(craft.pickled(craft.PAYLOAD), {}))
    report = inspect_pickle(path)
    (found,) = (ref for ref in report.globals if not ref.allowed)
    assert (found.opcode, found.offset, found.member) == ("GLOBAL", 2, "archive/data.pkl")
    assert report.kind == "torch_zip"
    assert report.file_bytes == path.stat().st_size


_plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=4)
        | st.tuples(inner, inner)
    ),
    max_leaves=12,
)


def _concrete(value: Any) -> Any:
    if isinstance(value, Dict):
        return {_concrete(key): _concrete(item) for key, item in value.pairs}
    if isinstance(value, list | tuple):
        return type(value)(_concrete(item) for item in value)
    assert not isinstance(value, Call)
    return value


@settings(max_examples=120, deadline=None)
@given(_plain, st.integers(0, 5))
def test_plain_values_are_understood_as_pickle_wrote_them(value: Any, protocol: int) -> None:
    data = pickle.dumps(value, protocol=protocol)
    found = walk(data)
    assert not found.broken
    assert found.end == len(data)
    assert _concrete(found.root) == value
    assert all(ref.allowed for ref in found.references)


def test_reports_hold_plain_json(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(craft.pickled(craft.call("\u202eos", "sys\x1btem")))
    report = inspect_pickle(path)
    assert report.globals[0].module == "\u202eos"
    assert "\x1b" not in json.dumps([problem.detail for problem in report.problems])
