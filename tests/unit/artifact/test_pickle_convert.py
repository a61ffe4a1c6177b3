"""Allowed pickles become the same tensors as torch and numpy read; everything else leaves no file."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from auditor.artifact.pickle_guard import convert_allowed, inspect_pickle
from auditor.artifact.safetensors_file import SafetensorsFile
from auditor.errors import MalformedArtifact, RefusedArtifact, UnsupportedArtifact
from auditor.proving.scan import craft


def test_converting_gives_torchs_own_values(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = torch.randn(4, 5)
    tensors = {
        "plain": base,
        "transposed": base.t(),
        "slice": base[1:3, ::2],
        "expanded": base[:, :1].expand(4, 3),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "half": base.half(),
        "bf16": base.bfloat16(),
        "f8": base.to(torch.float8_e4m3fn),
        "u16": torch.tensor([1, 65535], dtype=torch.uint16),
        "long": torch.arange(3),
        "bool": torch.tensor([True, False]),
        "complex": torch.complex(base, base),
        "parameter": torch.nn.Parameter(base.clone()),
    }
    for legacy in (False, True):
        kept = {name: t for name, t in tensors.items() if not (legacy and name in ("u16", "f8"))}
        source = tmp_path / f"{legacy}.pt"
        torch.save(kept, source, _use_new_zipfile_serialization=not legacy)
        with SafetensorsFile(convert_allowed(source, tmp_path)) as file:
            assert set(file.names) == set(kept)
            for name, value in kept.items():
                expected = value.detach()
                if expected.dtype in (torch.bfloat16, torch.float8_e4m3fn):
                    expected = expected.float()
                np.testing.assert_array_equal(file.tensor(name), expected.numpy(), err_msg=name)


@pytest.mark.parametrize(
    "data", [craft.embedding_file(), craft.embedding_file(zipfile.ZIP_DEFLATED), craft.legacy_file()]
)
def test_an_old_embedding_becomes_named_tensors_and_metadata(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "cat.pt"
    path.write_bytes(data)
    report = inspect_pickle(path)
    assert report.verdict == "allowed"
    converted = convert_allowed(path, tmp_path)
    assert converted == convert_allowed(path, tmp_path)
    with SafetensorsFile(converted) as file:
        np.testing.assert_array_equal(file.tensor("string_to_param/*"), [[0, 1, 2, 3]])
        assert file.header.metadata["name"] == "cat"
        assert file.header.metadata["step"] == "5"
        assert file.header.metadata["auditor.source_sha256"] == report.sha256
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".pt", ".safetensors"]


def test_arrays_are_converted_with_order_and_byte_order(tmp_path: Path) -> None:
    grid = np.arange(6, dtype=np.int16).reshape(2, 3)
    values = {
        "f": np.asfortranarray(grid),
        "big": grid.astype(">i2"),
        "s": np.float64(1.5),
        "c": grid.astype(np.complex64),
    }
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"nested": [values, {1: grid}]}, protocol=2))
    with SafetensorsFile(convert_allowed(path, tmp_path)) as file:
        for name, value in values.items():
            np.testing.assert_array_equal(file.tensor(f"nested/0/{name}"), value)
        np.testing.assert_array_equal(file.tensor("nested/1/1"), grid)


def _cyclic() -> bytes:
    loop: list[Any] = [np.zeros(1)]
    loop.append(loop)
    return pickle.dumps(loop)


@pytest.mark.parametrize(
    ("data", "error", "match"),
    [
        (craft.pickled(b"}", craft.text("a"), b"Ns"), UnsupportedArtifact, "no tensors"),
        (_cyclic(), MalformedArtifact, "deeper"),
        (pickle.dumps({"a": {"b": np.zeros(1)}, "a/b": np.zeros(1)}), MalformedArtifact, "both be named"),
        (
            pickle.dumps({"auditor.source_sha256": "forged", "a": np.zeros(1)}),
            MalformedArtifact,
            "both be named",
        ),
        (pickle.dumps({"a": np.array(["text"])}), UnsupportedArtifact, "dtype"),
        (pickle.dumps({(1, 2): np.zeros(1)}), UnsupportedArtifact, "keys"),
        (
            craft.torch_zip(craft.pickled(craft.tensor("0", 1, (2**20, 2**10), (0, 0))), {"0": bytes(4)}),
            RefusedArtifact,
            "would take",
        ),
        (craft.embedding_file() + craft.PAYLOAD, RefusedArtifact, "not converted"),
        (craft.PROTO + b"\xff", RefusedArtifact, "breaks off"),
    ],
)
def test_what_cannot_be_converted_is_refused_and_leaves_nothing(
    data: bytes, error: type[Exception], match: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(data)
    (tmp_path / "out").mkdir()
    if data.endswith(craft.PAYLOAD):
        path.write_bytes(craft.pickled(b"N") + data)
    with pytest.raises(error, match=match):
        convert_allowed(path, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
