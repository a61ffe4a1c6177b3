"""Header readers of containers that are named but not opened: bounded, and never an error that is not ours."""

import contextlib
import json
import struct
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.artifact.dduf import read_dduf
from auditor.artifact.gguf import read_gguf
from auditor.artifact.limits import Limits
from auditor.errors import AuditorError, MalformedArtifact, RefusedArtifact, UnsupportedArtifact


def text(value):
    return struct.pack("<Q", len(value)) + value


def header(tensors=1, pairs=1, version=3):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, pairs)


ARCHITECTURE = text(b"general.architecture") + struct.pack("<I", 8) + text(b"sd\x1b[31m1")
TENSOR = text(b"a.weight") + struct.pack("<IQQIQ", 2, 4, 4, 12, 0)


def written(tmp_path, data):
    path = tmp_path / "x.gguf"
    path.write_bytes(data)
    return path


def test_a_header_is_summed_up_and_its_text_is_made_inert(tmp_path):
    array = text(b"deep") + struct.pack("<IIQ", 9, 9, 1) + struct.pack("<IQ", 8, 1) + text(b"x")
    found = read_gguf(written(tmp_path, header(2, 2) + array + ARCHITECTURE + TENSOR + TENSOR + b"data"))
    assert (found.version, found.tensors, found.types) == (3, 2, {"Q4_K": 2})
    assert "\x1b" not in found.architecture and found.architecture.startswith("sd")
    assert found.told.startswith("2 tensors of architecture")


@pytest.mark.parametrize(
    ("data", "error", "told"),
    [
        (header(version=1), UnsupportedArtifact, "version 1"),
        (header(version=3 << 24), UnsupportedArtifact, "byte order"),
        (header(tensors=1 << 60), RefusedArtifact, "too many"),
        (header(), MalformedArtifact, "cut short"),
        (header() + text(b"k") + struct.pack("<I", 77), MalformedArtifact, "unknown type 77"),
        (header() + text(b"k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 6, MalformedArtifact, "type 9"),
        (header() + text(b"k") + struct.pack("<IIQ", 9, 8, 1 << 60), MalformedArtifact, "cut short"),
        (header(1, 0) + text(b"a") + struct.pack("<I", 99), MalformedArtifact, "99 dimensions"),
    ],
)  # fmt: skip
def test_broken_headers_are_told_apart(tmp_path, data, error, told):
    with pytest.raises(error, match=told):
        read_gguf(written(tmp_path, data))


def test_a_header_beyond_the_limit_is_refused(tmp_path):
    long = text(b"k") + struct.pack("<I", 8) + text(b"x" * 500)
    with pytest.raises(RefusedArtifact, match="longer than 64 bytes"):
        read_gguf(written(tmp_path, header() + long), Limits(header_bytes=64))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80), st.integers(0, 120))
def test_no_bytes_raise_anything_but_our_own(tmp_path_factory, tail, cut):
    path = tmp_path_factory.getbasetemp() / "fuzz.gguf"
    path.write_bytes((header() + ARCHITECTURE + TENSOR)[:cut] + tail)
    with contextlib.suppress(AuditorError):
        read_gguf(path)


values = st.recursive(
    st.none() | st.booleans() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)
indexes = st.one_of(st.binary(max_size=40), values.map(lambda value: json.dumps(value).encode()))


@settings(max_examples=100, deadline=None)
@given(indexes)
def test_no_index_raises_anything_but_our_own(tmp_path_factory, index):
    path = tmp_path_factory.getbasetemp() / "fuzz.dduf"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model_index.json", index)
    with contextlib.suppress(AuditorError):
        read_dduf(path)
