"""Tensors come from the bytes that were hashed, in bounded memory, and their values are exact."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.artifact.limits import Limits
from auditor.artifact.nonfinite import count_nonfinite, float8_table
from auditor.artifact.safetensors_file import SafetensorsFile
from auditor.artifact.safetensors_header import read_header
from auditor.artifact.safetensors_write import Entry, encode_arrays, write_arrays, write_entries
from auditor.errors import MalformedArtifact, OutputError, RefusedArtifact, UnsupportedArtifact, UsageError
from auditor.proving.scan import craft

ROOT = Path(__file__).resolve().parents[3]

TORCH_FLOAT8 = {
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
}


def _write(path: Path, dtype: str, data: bytes, shape: list[int]) -> Path:
    header = {"x": {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)]}}
    path.write_bytes(craft.safetensors(header, data))
    return path


def test_arrays_survive_a_round_trip_and_the_library_agrees(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray[Any, Any]] = {
        code: rng.integers(0, 2, (2, 3)).astype(code)
        for code in ("?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", "c8")
    }
    arrays |= {
        "scalar": np.float32(2.5).reshape(()),
        "empty": np.zeros((0, 4), np.float32),
        "big": arrays["f4"].astype(">f4"),
    }
    path = write_arrays(tmp_path / "a.safetensors", arrays, {"k": "v"})
    theirs = safetensors.numpy.load_file(path)
    with SafetensorsFile(path) as file:
        assert set(file.names) == set(arrays) == set(theirs)
        assert file.header.metadata == {"k": "v"}
        for name, array in arrays.items():
            ours = file.tensor(name)
            assert ours.dtype == theirs[name].dtype
            np.testing.assert_array_equal(ours, array)
            assert ours.shape == array.shape
            assert ours.flags.writeable


def test_the_writer_is_deterministic_and_careful(tmp_path: Path) -> None:
    a, b = np.ones(3, np.float32), np.zeros(2, np.float16)
    assert encode_arrays({"a": a, "b": b}) == encode_arrays({"b": b, "a": a})
    path = write_arrays(tmp_path / "x", {"a": a})
    with pytest.raises(OutputError, match="exists already"):
        write_arrays(path, {"a": a})
    with pytest.raises(OutputError, match="cannot write"):
        write_arrays(tmp_path / "no" / "x", {"a": a})
    with pytest.raises(MalformedArtifact, match="cannot hold"):
        encode_arrays({"a": np.array(["text"])})
    with pytest.raises(MalformedArtifact, match="distinct names"):
        encode_arrays({"__metadata__": a})
    with (tmp_path / "short").open("wb") as file, pytest.raises(MalformedArtifact, match="3 bytes"):
        write_entries(file, [Entry("a", "F32", (1,), (b"abc",))], {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["short", "x"]


@pytest.mark.parametrize("dtype", sorted(TORCH_FLOAT8))
def test_every_code_of_every_8_bit_float_matches_torch(dtype: str) -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    expected = codes.view(TORCH_FLOAT8[dtype]).to(torch.float32).numpy()
    np.testing.assert_array_equal(float8_table(dtype), expected)
    finite = np.isfinite(expected)
    assert count_nonfinite(dtype, bytes(range(256))) == (np.isnan(expected).sum(), np.isinf(expected).sum())
    np.testing.assert_array_equal(np.signbit(float8_table(dtype))[finite], np.signbit(expected)[finite])


def test_every_bfloat16_is_exact_and_counted(tmp_path: Path) -> None:
    words = np.arange(1 << 16, dtype="<u2")
    expected = torch.from_numpy(words.view(np.int16)).view(torch.bfloat16).to(torch.float32).numpy()
    with SafetensorsFile(_write(tmp_path / "a", "BF16", words.tobytes(), [256, 256])) as file:
        ours = file.tensor("x")
        counted = file.count_nonfinite()
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours.view(np.uint32).ravel() >> 16, words)
    assert (counted.nan, counted.inf) == (np.isnan(expected).sum(), np.isinf(expected).sum())


@pytest.mark.parametrize(("dtype", "code"), [("F16", "<f2"), ("F32", "<f4"), ("F64", "<f8"), ("C64", "<f4")])
def test_nonfinite_values_are_counted_as_numpy_counts_them(dtype: str, code: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    words = rng.integers(0, 256, 3 << 20, dtype=np.uint8)
    words[5 * 8 : 6 * 8] = np.frombuffer(
        np.full(8 // np.dtype(code).itemsize, np.inf, code).tobytes(), np.uint8
    )
    values = words.view(code)
    bits = 8 * values.itemsize * (2 if dtype == "C64" else 1)
    path = _write(tmp_path / "a", dtype, words.tobytes(), [len(words) * 8 // bits])
    with SafetensorsFile(path) as file:
        counted = file.count_nonfinite()
    assert counted.nan == np.isnan(values).sum()
    assert counted.inf == np.isinf(values).sum() > 0
    assert counted.by_tensor == {"x": (counted.nan, counted.inf)}


def test_integers_hold_no_nan(tmp_path: Path) -> None:
    with SafetensorsFile(_write(tmp_path / "a", "I32", b"\xff" * 8, [2])) as file:
        assert file.count_nonfinite().by_tensor == {}


def test_booleans_are_clean_whatever_their_bytes(tmp_path: Path) -> None:
    with SafetensorsFile(_write(tmp_path / "a", "BOOL", b"\x00\x01\x02\xff", [4])) as file:
        np.testing.assert_array_equal(file.tensor("x"), [False, True, True, True])


def test_packed_dtypes_are_named_as_unsupported(tmp_path: Path) -> None:
    with SafetensorsFile(_write(tmp_path / "a", "F4", b"\x12", [2])) as file:
        assert len(file.sha256) == 64
        with pytest.raises(UnsupportedArtifact, match="F4"):
            file.tensor("x")


def test_the_hash_is_of_the_whole_file(tmp_path: Path) -> None:
    path = write_arrays(tmp_path / "a", {"x": np.arange(700_000, dtype=np.float32), "y": np.ones(3)})
    with SafetensorsFile(path) as file:
        assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_tensor_hash_ignores_metadata_and_order_and_nothing_else(tmp_path: Path) -> None:
    def tensor_hash(data: bytes) -> str:
        path = tmp_path / hashlib.sha256(data).hexdigest()
        path.write_bytes(data)
        with SafetensorsFile(path) as file:
            return file.tensor_hash

    a, b = np.arange(4, dtype=np.float32), np.arange(4, 8, dtype=np.float32)
    base = tensor_hash(encode_arrays({"a": a, "b": b}))
    swapped = {"b": craft.entry(0, [4]), "a": craft.entry(16, [4])}
    assert tensor_hash(encode_arrays({"a": a, "b": b}, {"title": "other"})) == base
    assert tensor_hash(craft.safetensors(swapped, b.tobytes() + a.tobytes())) == base
    others = [
        {"a": b, "b": a},
        {"a": a, "c": b},
        {"a": a},
        {"a": a.reshape(2, 2), "b": b},
        {"a": a.view(np.int32), "b": b},
        {"a": a, "b": b + 1},
    ]
    assert len({base, *(tensor_hash(encode_arrays(other)) for other in others)}) == 7


def test_a_file_changed_after_hashing_is_not_served(tmp_path: Path) -> None:
    path = write_arrays(tmp_path / "a", {"x": np.zeros(100, np.float32)})
    with SafetensorsFile(path) as file:
        first = file.sha256
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        with path.open("r+b") as handle:
            handle.write(data)
        with pytest.raises(RefusedArtifact, match="changed while"):
            file.tensor("x")
        assert file.sha256 == first


def test_a_file_changed_before_hashing_is_noticed(tmp_path: Path) -> None:
    path = write_arrays(tmp_path / "a", {"x": np.zeros(100, np.float32)})
    with SafetensorsFile(path) as file:
        os.truncate(path, path.stat().st_size - 4)
        with pytest.raises(RefusedArtifact, match="changed while"):
            file.count_nonfinite()


def test_a_file_replaced_by_another_keeps_serving_the_first(tmp_path: Path) -> None:
    path = write_arrays(tmp_path / "a", {"x": np.zeros(3, np.float32)})
    other = write_arrays(tmp_path / "b", {"x": np.ones(3, np.float32)})
    with SafetensorsFile(path) as file:
        other.replace(path)
        np.testing.assert_array_equal(file.tensor("x"), np.zeros(3))


def test_bad_paths_and_limits(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        SafetensorsFile(tmp_path / "none")
    with pytest.raises(RefusedArtifact):
        SafetensorsFile(tmp_path)
    path = write_arrays(tmp_path / "a", {"x": np.zeros(3, np.float32)})
    with pytest.raises(RefusedArtifact, match="the cap is 10"):
        SafetensorsFile(path, Limits(file_bytes=10))
    with SafetensorsFile(path) as file, pytest.raises(KeyError):
        file.tensor("y")
    with pytest.raises(ValueError, match="closed"):
        file.tensor("x")


_MEASURE = r"""
import json, re, sys, time
sys.path.insert(0, sys.argv[1])
from auditor.artifact.safetensors_file import SafetensorsFile
begun = time.process_time()
with SafetensorsFile(sys.argv[2]) as file:
    counted, sha = file.count_nonfinite(), file.sha256
seconds = time.process_time() - begun
# The high-water mark of this address space; getrusage would give the parent's, from before exec.
peak = int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1]) * 1024
print(json.dumps([counted.nan, counted.inf, peak, seconds, "torch" in sys.modules, "scipy" in sys.modules]))
"""


def _sparse(path: Path, gib: float) -> Path:
    elements = int(gib * (1 << 30)) // 4
    header = {
        "a": {"dtype": "F32", "shape": [elements // 2], "data_offsets": [0, elements * 2]},
        "b": {"dtype": "BF16", "shape": [elements], "data_offsets": [elements * 2, elements * 4]},
    }
    with path.open("wb") as file:
        file.write(craft.safetensors(header))
        start = file.tell()
        file.truncate(start + elements * 4)
        file.seek(start + 4000)
        file.write(np.array([np.nan, np.inf], "<f4").tobytes())
        file.seek(-2, os.SEEK_END)
        file.write(b"\xc0\x7f")
    return path


def _measure(path: Path) -> list[Any]:
    command = [sys.executable, "-c", _MEASURE, str(ROOT), str(path)]
    found: list[Any] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return found


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    nan, inf, peak, _, torch_loaded, scipy_loaded = _measure(_sparse(tmp_path / "a", 0.25))
    assert (nan, inf) == (2, 1)
    assert peak < 120 << 20
    assert not torch_loaded
    assert not scipy_loaded


@pytest.mark.slow
def test_two_gib_are_checked_within_300_mb_and_at_speed(tmp_path: Path) -> None:
    nan, inf, peak, seconds, *_ = _measure(_sparse(tmp_path / "a", 2))
    assert (nan, inf) == (2, 1)
    assert peak <= 300 << 20
    assert seconds < 20, "two GiB of processor time, with room for a busy machine"


def test_the_import_is_light() -> None:
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); begun = time.process_time(); "
        "import auditor.artifact.safetensors_file, auditor.artifact.sniff, auditor.artifact.pickle_guard; "
        "print(time.process_time() - begun, sorted({'numpy', 'torch', 'scipy'} & sys.modules.keys()))"
    )
    command = [sys.executable, "-c", code, str(ROOT)]
    lines = [subprocess.run(command, capture_output=True, check=True, text=True).stdout for _ in range(3)]
    best = min(lines, key=lambda line: float(line.split()[0]))
    assert best.split(maxsplit=1)[1].strip() == "[]"
    assert float(best.split()[0]) < 0.5


def test_headers_are_read_in_milliseconds(tmp_path: Path) -> None:
    header = {f"lora_unet_block_{i}.lora_down.weight": craft.entry(4 * i, [1]) for i in range(2000)}
    path = tmp_path / "a"
    path.write_bytes(craft.safetensors(header, bytes(8000)))
    begun = time.process_time()
    read_header(path)
    assert time.process_time() - begun < 1.0


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["F16", "F32", "BF16", "U8"]), st.integers(0, 5), st.booleans()),
        min_size=1,
        max_size=8,
    )
)
def test_the_quick_pass_finds_what_the_full_one_finds(tmp_path_factory, tensors):
    header, data = {}, b""
    for i, (dtype, count, broken) in enumerate(tensors):
        size = {"F16": 2, "BF16": 2, "F32": 4, "U8": 1}[dtype]
        header[f"t{i}"] = {"dtype": dtype, "shape": [count], "data_offsets": [len(data), len(data) + count * size]}
        data += (b"\xff" if broken else b"\x01") * count * size
    path = tmp_path_factory.mktemp("quick") / "a.safetensors"
    path.write_bytes(craft.safetensors(header, data))
    with SafetensorsFile(path) as quick, SafetensorsFile(path) as full:
        counted = full.count_nonfinite()
        assert quick.screen() == (full.sha256, counted.nan + counted.inf)
        assert full.screen() == quick.screen()
