"""A file is what its bytes are, whatever its name."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from auditor.artifact.byte_source import ByteSource
from auditor.artifact.sniff import Kind, sniff, sniff_source
from auditor.errors import RefusedArtifact, UsageError
from auditor.proving.scan import craft


def _npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


SAMPLES: dict[str, tuple[bytes, Kind]] = {
    "safetensors": (craft.safetensors({"a": craft.entry(0, [1])}, b"\0" * 4), Kind.SAFETENSORS),
    "torch zip": (craft.embedding_file(), Kind.TORCH_ZIP),
    "torch legacy": (craft.legacy_file(), Kind.TORCH_LEGACY),
    "bare pickle": (craft.pickled(craft.PAYLOAD), Kind.PICKLE),
    "protocol 0": (pickle.dumps({"a": [1, 2]}, protocol=0), Kind.PICKLE),
    "protocol 0 call": (b"cos\nsystem\n(S'true'\ntR.", Kind.PICKLE),
    "protocol 0 INST": (b"(S'true'\nios\nsystem\n.", Kind.PICKLE),
    "call, then garbage": (b"cos\nsystem\n(S'true'\ntR\xff\xff\xff", Kind.PICKLE),
    "zip": (craft.zipped({"readme.txt": b"hello"}), Kind.ZIP),
    "npz": (craft.zipped({"a.npy": _npy()}), Kind.NPZ),
    "npy": (_npy(), Kind.NPY),
    "dduf": (craft.zipped({"model_index.json": b"{}", "unet/config.json": b"{}"}), Kind.DDUF),
    "7z": (b"7z\xbc\xaf\x27\x1c\0\4" + b"\0" * 40, Kind.SEVEN_ZIP),
    "gzip": (b"\x1f\x8b\x08" + b"\0" * 20, Kind.ARCHIVE),
    "tar": (b"\0" * 257 + b"ustar\0" + b"\0" * 300, Kind.ARCHIVE),
    "gguf": (b"GGUF\x03\0\0\0" + b"\0" * 20, Kind.GGUF),
    "onnx": (b"\x08\x07\x12\x07pytorch" + b"\x1a\x03" + b"\0" * 9, Kind.ONNX),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + b"\0" * 20, Kind.HDF5),
    "png": (b"\x89PNG\r\n\x1a\n" + b"\0" * 20, Kind.IMAGE),
    "html": (b"\n <!DOCTYPE html><html></html>", Kind.HTML),
    "text": (b"a photo of sks person\n", Kind.TEXT),
    "words that open like GLOBAL": (b"cat\ndog\nbird\n", Kind.TEXT),
    "numbers": (b"0636457737946401051300000000", Kind.TEXT),
    "lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", Kind.TEXT),
    "empty": (b"", Kind.EMPTY),
    "noise": (bytes(range(128, 256)), Kind.UNKNOWN),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_kind_is_told_by_content(name: str, tmp_path: Path) -> None:
    data, kind = SAMPLES[name]
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    found = sniff(path)
    assert found.kind is kind
    assert found.evidence


def test_a_pickle_with_an_archive_behind_it_is_noted() -> None:
    found = sniff_source(ByteSource(craft.pickled(craft.PAYLOAD) + craft.zipped({"a.txt": b"x"})))
    assert any("pickle" in note for note in found.notes)


def test_lfs_pointers_are_named() -> None:
    assert "Git LFS" in sniff_source(ByteSource(SAMPLES["lfs pointer"][0])).evidence


def test_a_length_that_does_not_fit_is_noted() -> None:
    data = b"\xff" * 8 + b'{"a":{}}'
    found = sniff_source(ByteSource(data))
    assert found.kind is Kind.SAFETENSORS
    assert found.notes


def test_evidence_and_notes_are_inert() -> None:
    found = sniff_source(ByteSource(craft.zipped({"\x1b[2J/data.pkl": b"N.", "../\x1b[31mx": b""})))
    assert "\x1b" not in found.evidence + "".join(found.notes)


def test_directories_and_missing_files(tmp_path: Path) -> None:
    assert sniff(tmp_path).kind is Kind.DIRECTORY
    with pytest.raises(UsageError, match="cannot read"):
        sniff(tmp_path / "nothing")


def test_a_named_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RefusedArtifact, match="not a regular file"):
        sniff(tmp_path / "pipe")


def test_a_line_longer_than_a_page_hides_no_pickle(tmp_path: Path) -> None:
    pickled = b"S'" + b"A" * 100_000 + b"'\n0" + craft.PAYLOAD + b"."
    assert sniff_source(ByteSource(pickled)).kind is Kind.PICKLE
    assert sniff_source(ByteSource(b"S" + b"A" * (9 << 20) + b"\n" + craft.PAYLOAD)).kind is Kind.PICKLE
    assert sniff_source(ByteSource(b"Some words, " * 10_000)).kind is Kind.TEXT
    large = craft.zipped({"a.npy": _npy(), "b": bytes(100_000)})
    assert not any("pickle" in note for note in sniff_source(ByteSource(large)).notes)


def test_a_header_length_that_spells_proto_is_no_pickle() -> None:
    text = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'.ljust(0x0280)
    assert sniff_source(ByteSource(craft.safetensors(text, b"\0"))).notes == ()


def test_a_file_that_changed_is_looked_at_again(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(SAMPLES["text"][0])
    assert sniff(path).kind is Kind.TEXT
    path.write_bytes(SAMPLES["bare pickle"][0])
    assert sniff(path).kind is Kind.PICKLE
