"""The header reader is never more lenient than the reference library, and stricter only where it says so."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.artifact.limits import Limits
from auditor.artifact.safetensors_header import DTYPE_BITS, read_header
from auditor.errors import MalformedArtifact, RefusedArtifact, UsageError
from auditor.proving.scan import craft

ONE = craft.entry(0, [1])
DATA = b"\0" * 4


def _codes(data: bytes) -> set[str]:
    return {problem.code for problem in read_header(data).problems}


@pytest.mark.parametrize("dtype", sorted(DTYPE_BITS))
def test_every_dtype_of_the_library_is_known(dtype: str) -> None:
    data = bytes(DTYPE_BITS[dtype])
    file = craft.safetensors({"a": {"dtype": dtype, "shape": [8], "data_offsets": [0, len(data)]}}, data)
    safetensors.deserialize(file)
    assert read_header(file).tensors["a"].elements == 8


def test_the_library_knows_no_further_dtype() -> None:
    with pytest.raises(safetensors.SafetensorError) as caught:
        safetensors.deserialize(craft.safetensors({"a": ONE | {"dtype": "?"}}, DATA))
    listed = str(caught.value).partition("expected one of ")[2].partition(" at line")[0]
    assert {name.strip(" `") for name in listed.split(",")} == set(DTYPE_BITS)


# Both refuse these.
BROKEN: dict[str, bytes] = {
    "empty": b"",
    "seven bytes": b"\0" * 7,
    "length beyond the file": struct.pack("<Q", 100) + b"{}",
    "length of 2**64 - 1": b"\xff" * 8 + b"{}",
    "no JSON": craft.safetensors(b"{,}"),
    "a list": craft.safetensors(b"[]"),
    "trailing NUL": craft.safetensors(b"{}\0"),
    "not UTF-8": craft.safetensors(b'{"__metadata__":{"a":"\xff"}}'),
    "lone surrogate": craft.safetensors(b'{"__metadata__":{"a":"\\ud800"}}'),
    "lone surrogate name": craft.safetensors(b'{"\\udfff":' + json.dumps(ONE).encode() + b"}", DATA),
    "raw control character": craft.safetensors(b'{"__metadata__":{"a":"\n"}}'),
    "metadata number": craft.safetensors({"__metadata__": {"a": 1}}),
    "unknown dtype": craft.safetensors({"a": ONE | {"dtype": "F33"}}, DATA),
    "minus zero": craft.safetensors(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[-0,4]}}', DATA),
    "exponent": craft.safetensors(b'{"a":{"dtype":"F32","shape":[1e0],"data_offsets":[0,4]}}', DATA),
    "NaN": craft.safetensors(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}', DATA),
    "boolean size": craft.safetensors(b'{"a":{"dtype":"F32","shape":[true],"data_offsets":[0,4]}}', DATA),
    "negative size": craft.safetensors({"a": ONE | {"shape": [-1]}}, DATA),
    "size and shape differ": craft.safetensors({"a": ONE | {"shape": [2]}}, DATA),
    "end before start": craft.safetensors({"a": ONE | {"data_offsets": [4, 0]}}, DATA),
    "three offsets": craft.safetensors({"a": ONE | {"data_offsets": [0, 4, 4]}}, DATA),
    "no offsets": craft.safetensors({"a": {"dtype": "F32", "shape": [1]}}, DATA),
    "hole": craft.safetensors({"a": craft.entry(4, [1])}, DATA * 2),
    "overlap": craft.safetensors({"a": ONE, "b": ONE}, DATA),
    "trailing bytes": craft.safetensors({"a": ONE}, DATA + b"x"),
    "missing bytes": craft.safetensors({"a": ONE}, DATA[:3]),
    "half a byte": craft.safetensors({"a": {"dtype": "F4", "shape": [1], "data_offsets": [0, 1]}}, b"\0"),
    "overflow": craft.safetensors(
        {"a": {"dtype": "F32", "shape": [2**63, 2**63, 0], "data_offsets": [0, 0]}},
    ),
    "integer of 5000 digits": craft.safetensors(b'{"a":{"shape":[' + b"9" * 5000 + b"]}}"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_the_library_refuses_is_refused(name: str) -> None:
    with pytest.raises(safetensors.SafetensorError):
        safetensors.deserialize(BROKEN[name])
    with pytest.raises(MalformedArtifact):
        read_header(BROKEN[name])


# The library lets these pass; the module's documentation lists them.
STRICTER: dict[str, bytes] = {
    "white space first": craft.safetensors(b' {"a":' + json.dumps(ONE).encode() + b"}", DATA),
    "key twice": craft.safetensors(
        b'{"a":%b,"a":%b}' % (json.dumps(ONE).encode(), json.dumps(ONE).encode()), DATA
    ),
    "metadata key twice": craft.safetensors(b'{"__metadata__":{"a":"1","a":"2"}}'),
    "null metadata": craft.safetensors({"__metadata__": None}),
    "unknown field": craft.safetensors({"a": ONE | {"extra": "x"}}, DATA),
    "entry as a list": craft.safetensors({"a": ["F32", [1], [0, 4]]}, DATA),
    "huge dimension": craft.safetensors({"a": {"dtype": "F32", "shape": [0, 2**40], "data_offsets": [0, 0]}}),
}


@pytest.mark.parametrize("name", STRICTER)
def test_stricter_than_the_library_on_purpose(name: str) -> None:
    safetensors.deserialize(STRICTER[name])
    with pytest.raises(MalformedArtifact):
        read_header(STRICTER[name])


def test_limits_hold() -> None:
    many = craft.safetensors({str(i): craft.entry(0, [0]) for i in range(20)})
    assert len(read_header(many).tensors) == 20
    with pytest.raises(MalformedArtifact, match="more than 19 tensors"):
        read_header(many, Limits(tensors=19))
    with pytest.raises(MalformedArtifact, match="the cap is 100"):
        read_header(many, Limits(header_bytes=100))
    with pytest.raises(MalformedArtifact, match="dimensions"):
        read_header(craft.safetensors({"a": craft.entry(0, [1] * 17)}, DATA))
    with pytest.raises(MalformedArtifact, match="longer than 1024"):
        read_header(craft.safetensors({"a" * 1025: ONE}, DATA))


@pytest.mark.parametrize(
    "bomb",
    [
        b'{"a":' + b"[" * 200_000,
        b'{"a":[' + b"[]," * 700_000 + b"[]]}",
        b'{"a":[' + b"1," * 3_000_000 + b"1]}",
    ],
    ids=["depth", "lists", "numbers"],
)
def test_json_bombs_are_refused_before_they_are_parsed(bomb: bytes) -> None:
    with pytest.raises(MalformedArtifact, match=r"deeper|more objects|more values"):
        read_header(craft.safetensors(bomb))


def test_an_unterminated_string_of_backslashes_is_refused_in_linear_time() -> None:
    with pytest.raises(MalformedArtifact):
        read_header(craft.safetensors(b'{"' + b"\\\\" * 2_000_000 + b"\\"))


@pytest.mark.parametrize(
    ("metadata", "code"),
    [
        ("<script>alert(1)</script>", "text.html"),
        ("<img src=x onerror=alert(1)>", "text.html"),
        ("click javascript:alert(1)", "text.html"),
        ("\x1b[2Jgone", "text.ansi"),
        ("\x07", "text.control"),
        ("abc\u202edcba", "text.bidi"),
        ("sk\u200bs", "text.zero_width"),
        ("sk\u200cs", "text.zero_width"),
        ("بچه\u200c\u200cها", "text.zero_width"),
        ("ph\u043eto", "text.confusable"),
        ("see https://example.org", "text.url"),
        ("data:image/jpeg;base64,AAAA", "text.data_uri"),
        ("/home/somebody/dataset/10_person", "text.path"),
        ("C:\\Users\\somebody", "text.path"),
        ("Ab1+" * 100, "text.base64"),
        ("{{ config.__class__ }}", "text.template"),
        ("__import__('os')", "text.code"),
    ],
)
def test_odd_metadata_is_named(metadata: str, code: str) -> None:
    assert code in _codes(craft.safetensors({"__metadata__": {"k": metadata}, "a": ONE}, DATA))


@pytest.mark.parametrize(
    "metadata",
    [
        "a photo of <s1> by <embed>",
        '{"10_person": {"1girl, looking at viewer": 12}}',
        "фото человека",
        "0123456789abcdef" * 40,
        "family: \U0001f468\u200d\U0001f469",
        "عکس بچه\u200cها",
        "क्\u200dष",
        "lora_unet_down_blocks_0/attn.to_q",
    ],
)
def test_ordinary_metadata_is_left_alone(metadata: str) -> None:
    assert not _codes(craft.safetensors({"__metadata__": {"k": metadata}, "a": ONE}, DATA))


def test_odd_tensor_names_and_shapes_are_named_and_shown_inert() -> None:
    header = read_header(craft.safetensors({"\x1b]0;x\x07": ONE, "../a": craft.entry(4, [0])}, DATA))
    codes = {problem.code for problem in header.problems}
    assert {"safetensors.odd_name", "safetensors.empty_tensor", "text.ansi", "text.path"} <= codes
    assert "\x1b" not in "".join(problem.detail for problem in header.problems)


def test_large_and_empty_files_are_named() -> None:
    assert "safetensors.no_tensors" in _codes(craft.safetensors({}))
    padded = craft.safetensors(b'{"a":' + json.dumps(ONE).encode() + b"}" + b" " * (5 << 20), DATA)
    assert "safetensors.large_header" in _codes(padded)


def test_paths_are_read_without_their_data(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(craft.safetensors({"a": ONE, "__metadata__": {"x": "y"}}, DATA))
    header = read_header(path)
    assert header.metadata == {"x": "y"}
    assert header.file_bytes == path.stat().st_size
    with pytest.raises(UsageError):
        read_header(tmp_path / "missing")
    with pytest.raises((RefusedArtifact, UsageError)):
        read_header(tmp_path)


_names = st.text(st.characters(codec="utf-8"), max_size=12).filter(lambda name: name != "__metadata__")


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        _names, st.tuples(st.sampled_from(sorted(DTYPE_BITS)), st.lists(st.integers(0, 5), max_size=4))
    ),
    st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=9), st.text(st.characters(codec="utf-8"))),
)
def test_valid_files_read_as_the_library_reads_them(
    wanted: dict[str, tuple[str, list[int]]], metadata: dict[str, str]
) -> None:
    header: dict[str, object] = {"__metadata__": metadata}
    position = 0
    for name, (dtype, shape) in wanted.items():
        bits = DTYPE_BITS[dtype]
        for size in shape:
            bits *= size
        if bits % 8 == 0:
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + bits // 8]}
            position += bits // 8
    file = craft.safetensors(header, bytes(position))
    ours = {
        name: (spec.dtype, list(spec.shape), spec.nbytes) for name, spec in read_header(file).tensors.items()
    }
    theirs = {n: (e["dtype"], list(e["shape"]), len(e["data"])) for n, e in safetensors.deserialize(file)}
    assert ours == theirs
    assert read_header(file).metadata == metadata


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_cleanly(noise: bytes) -> None:
    for data in (noise, craft.safetensors(b"{" + noise)):
        try:
            read_header(data)
        except MalformedArtifact:
            continue
        safetensors.deserialize(data)
