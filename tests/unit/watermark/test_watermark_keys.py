"""Key files and logs: private, whole or refused, and never told."""

import json
import stat

import numpy as np
import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from auditor.errors import AuditorError, MalformedArtifact, UsageError
from watermark.issued import Issued, append_issued, read_nonces
from watermark.keys import MasterKey, hkdf_sha256, load_key, make_key_file, new_nonce, readable_by_others


@given(
    st.binary(min_size=1, max_size=80), st.binary(max_size=70), st.binary(max_size=40), st.integers(1, 200)
)
@settings(max_examples=40, deadline=None)
def test_derivation_is_that_of_the_reference_library(secret, salt, info, length):
    expected = HKDF(SHA256(), length, salt or None, info).derive(secret)
    assert hkdf_sha256(secret, salt, info, length) == expected


def test_a_key_file_is_private_comes_back_and_is_not_written_over(tmp_path):
    path = tmp_path / "mark.key"
    key = make_key_file(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_key(path) == key
    assert not readable_by_others(path)
    with pytest.raises(UsageError, match="exists already"):
        make_key_file(path)
    path.chmod(0o640)
    assert readable_by_others(path)


def test_the_secret_is_in_no_text(tmp_path):
    key = make_key_file(tmp_path / "mark.key")
    for text in (repr(key), str(key), f"{key}", repr([key])):
        assert key.id in text
        assert key.secret.hex() not in text
        assert repr(key.secret) not in text
    assert key.id not in key.secret.hex()


@pytest.mark.parametrize("cut", [1, 5, 20, 40, 60, 90])
def test_a_cut_key_is_broken_and_never_just_another_key(tmp_path, cut):
    path = tmp_path / "mark.key"
    make_key_file(path)
    path.write_bytes(path.read_bytes()[:-cut])
    if cut > 1:  # the last byte is the end of the line
        with pytest.raises(MalformedArtifact, match="cut short or changed"):
            load_key(path)


@given(st.integers(0, 10**6), st.integers(1, 255))
@settings(max_examples=60, deadline=None)
def test_a_changed_byte_is_found_or_changes_nothing(tmp_path_factory, where, change):
    path = tmp_path_factory.mktemp("keys") / "mark.key"
    key = make_key_file(path)
    data = bytearray(path.read_bytes())
    data[where % len(data)] ^= change
    path.write_bytes(bytes(data))
    try:
        assert load_key(path) == key
    except AuditorError as refusal:
        assert key.secret.hex() not in str(refusal)


@pytest.mark.parametrize(
    ("data", "kind", "told"),
    [
        (b"", UsageError, "not a watermark key"),
        (b"\x89PNG", UsageError, "not a watermark key"),
        (b'{"format": "auditor-watermark-key", "version": 9}', MalformedArtifact, "version 9"),
        (b'{"format": "auditor-watermark-key"}', MalformedArtifact, "cut short"),
        (b'["auditor-watermark-key"]', MalformedArtifact, "cut short"),
        (b"[" * 4000 + b"auditor-watermark-key", MalformedArtifact, "cut short"),
        (b"auditor-watermark-key" * 1000, UsageError, "not a watermark key"),
    ],
    ids=["empty", "picture", "later version", "nothing in it", "list", "deep", "large"],
)
def test_other_files_are_refused_in_one_sentence(tmp_path, data, kind, told):
    path = tmp_path / "mark.key"
    path.write_bytes(data)
    with pytest.raises(kind, match=told):
        load_key(path)


def test_a_missing_key_and_a_folder_are_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        load_key(tmp_path / "none")
    with pytest.raises(UsageError, match="not a file"):
        load_key(tmp_path)


def test_streams_are_fair_and_apart():
    key = MasterKey(bytes(32))
    assert stats.kstest(key.stream("a").normals(20_000), "norm").pvalue > 1e-3
    assert stats.kstest(key.stream("a").uniforms(20_000), "uniform").pvalue > 1e-3
    assert sorted(key.stream("a").permutation(1000)) == list(range(1000))
    a, b, c = (key.stream(*args).signs(20_000) for args in (("a",), ("b",), ("a", new_nonce())))
    assert max(abs(a @ b), abs(a @ c)) < 5 * 20_000**0.5
    stream = key.stream("a")
    assert not np.array_equal(stream.bits(100), stream.bits(100))


def test_a_log_gives_its_nonces_and_leaves_out_other_keys(tmp_path):
    key, other, path = MasterKey(bytes(32)), MasterKey(bytes([1]) * 32), tmp_path / "issued.jsonl"
    nonces = [new_nonce() for _ in range(3)]
    for nonce, owner in zip(nonces, (key, other, key), strict=True):
        append_issued(path, Issued(nonce.hex(), owner.id, "tail_sign", "", (4, 32, 32), "a.png"))
    assert read_nonces(path, key) == (nonces[0], nonces[2])
    path.write_text(nonces[1].hex() + "\n\n" + nonces[1].hex() + "\n")
    assert read_nonces(path, key) == (nonces[1],)
    with pytest.raises(UsageError, match="of other keys"):
        path.write_text(json.dumps({"nonce": nonces[0].hex(), "key": "x"}))
        read_nonces(path, key)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "zz",
        "00",
        '{"nonce": 3}',
        "{",
        '{"key": "x"}',
        '{"nonce": "' + "00" * 12 + '", "key": 1}',
        "[" * 9000,
    ],
)
def test_a_broken_log_is_refused(tmp_path, text):
    path = tmp_path / "issued.jsonl"
    path.write_text(text)
    with pytest.raises(UsageError):
        read_nonces(path, MasterKey(bytes(32)))


def test_a_binary_file_is_no_log(tmp_path):
    path = tmp_path / "issued.jsonl"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not a log"):
        read_nonces(path, MasterKey(bytes(32)))
