import base64
import json
from typing import Any

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from reports.sign import (
    PAYLOAD_TYPE,
    Check,
    File,
    Malformed,
    canonical,
    check,
    fingerprint,
    pre_authentication,
    sign,
)

# Secret keys of the test vectors in RFC 8032, section 7.1.
KEY = Ed25519PrivateKey.from_private_bytes(
    bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
)
OTHER = Ed25519PrivateKey.from_private_bytes(
    bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
)
FILES = {
    "report.json": File("a" * 64, 100),
    "plan.json": File("b" * 64, 50),
    "evidence/ü.png": File("c" * 64, 7),
}
TOOL = {"name": "personalized-model-auditor", "version": "0.1.0"}
WHEN = "2026-11-22T21:14:05Z"

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.text(alphabet=st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(alphabet=st.characters(codec="utf-8")), inner, max_size=4)
    ),
    max_leaves=12,
)


def signed(key: Ed25519PrivateKey = KEY) -> bytes:
    return sign(FILES, key, tool=TOOL, created=WHEN)


def edited(change: Any) -> bytes:
    """The signature file with something else in it, in the form that is written."""
    body = json.loads(signed())
    change(body)
    return (json.dumps(body, indent=1, sort_keys=True) + "\n").encode()


def test_what_was_signed_is_intact() -> None:
    found = check(signed(), FILES, KEY.public_key())
    assert found == Check(
        genuine=True,
        signer=fingerprint(KEY.public_key()),
        expected=True,
        created=WHEN,
        tool="personalized-model-auditor 0.1.0",
        signed=3,
        changed=(),
        missing=(),
        added=(),
    )
    assert found.intact


def test_signing_twice_gives_the_same_bytes() -> None:
    assert signed() == signed()


def test_somebody_elses_library_verifies_it() -> None:
    body = json.loads(signed())
    payload = rfc8785.dumps(body["statement"])
    message = f"DSSEv1 {len(PAYLOAD_TYPE)} {PAYLOAD_TYPE} {len(payload)} ".encode() + payload
    KEY.public_key().verify(base64.b64decode(body["signature"]["value"]), message)


def test_the_encoding_is_the_one_of_dsse() -> None:
    # The example in the protocol's own text.
    expected = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert pre_authentication("http://example.com/HelloWorld", b"hello world") == expected


@settings(deadline=None, derandomize=True, max_examples=200)
@given(JSON)
def test_canonical_json_is_that_of_rfc_8785(value: Any) -> None:
    assert canonical(value) == rfc8785.dumps(value)


@pytest.mark.parametrize("value", [1.5, 2**53, float("nan"), "\ud800"])
def test_what_has_no_one_form_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r".+"):
        canonical({"a": value})


def test_the_fingerprint_is_that_of_openssl() -> None:
    # openssl pkey -pubin -outform DER | sha256sum, of the first public key in RFC 8032, section 7.1.
    expected = "sha256:06e3fd8fda29bb60ab59557de61edb0aecdb231134be30e75b455f8e1b792fa9"
    assert fingerprint(KEY.public_key()) == expected


def test_every_difference_is_named() -> None:
    there = {
        "report.json": File("a" * 64, 101),
        "evidence/ü.png": FILES["plan.json"],
        "evidence/new.png": FILES["report.json"],
    }
    found = check(signed(), there, KEY.public_key())
    assert found.changed == ("evidence/ü.png", "report.json")
    assert found.missing == ("plan.json",)
    assert found.added == ("evidence/new.png",)
    assert not found.intact


def test_another_key_is_not_the_expected_one() -> None:
    found = check(signed(OTHER), FILES, KEY.public_key())
    assert (found.genuine, found.expected, found.intact) == (False, False, False)
    assert found.signer == fingerprint(OTHER.public_key())


def test_without_a_key_nothing_is_expected() -> None:
    found = check(signed(OTHER), FILES)
    assert (found.genuine, found.expected, found.intact) == (True, None, True)


def test_the_key_in_the_file_is_not_trusted() -> None:
    def forge(body: Any) -> None:
        body["signature"] = json.loads(signed(OTHER))["signature"] | {"key": body["signature"]["key"]}

    found = check(edited(forge), FILES, KEY.public_key())
    assert (found.genuine, found.expected) == (False, False)


def test_a_genuine_signature_under_another_name_is_not_intact() -> None:
    def rename(body: Any) -> None:
        theirs = json.loads(signed(OTHER))["signature"]
        body["signature"] |= {"key": theirs["key"], "public_key": theirs["public_key"]}

    found = check(edited(rename), FILES, KEY.public_key())
    assert (found.expected, found.intact) == (False, False)


@settings(deadline=None, derandomize=True, max_examples=400)
@given(st.integers(0, len(signed()) - 1), st.integers(1, 255))
def test_any_changed_byte_of_the_signature_file_is_detected(place: int, flip: int) -> None:
    data = bytearray(signed())
    data[place] ^= flip
    try:
        found = check(bytes(data), FILES, KEY.public_key())
    except Malformed:
        return
    assert not found.intact
    assert not found.genuine or found.changed or found.missing or found.added


@pytest.mark.parametrize("cut", [0, 1, 100, -1, -2])
def test_a_truncated_file_is_malformed(cut: int) -> None:
    with pytest.raises(Malformed):
        check(signed()[:cut], FILES)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        signed() + b"\n",
        signed() + signed(),
        b" " + signed(),
        signed().replace(b'{\n "payload_type"', b'{\n "payload_type": "x",\n "payload_type"', 1),
        signed().replace(b'"created": "2026', b'"created": "2027-01-01T00:00:00Z",\n  "created": "2026', 1),
        signed().replace(b'"size": 100', b'"size": 1e2'),
        signed().replace(b'"size": 100', b'"size": NaN'),
        signed().replace(b"\n ", b"\n  "),
        json.dumps(json.loads(signed())).encode(),
    ],
)
def test_another_form_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        check(data, FILES)


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "", "a//b", ".", "a/.", "a\0b"])
def test_a_path_outside_the_run_is_malformed_and_is_never_signed(path: str) -> None:
    def climb(body: Any) -> None:
        body["statement"]["files"] = [{"path": path, "sha256": "a" * 64, "size": 1}]

    with pytest.raises(Malformed, match="outside the run"):
        check(edited(climb), FILES)
    with pytest.raises(ValueError, match="not a path inside"):
        sign({path: File("a" * 64, 1)}, KEY, tool=TOOL, created=WHEN)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("payload_type",), "application/json"),
        (("statement", "format"), "other"),
        (("statement", "format_version"), 2),
        (("statement", "format_version"), True),
        (("statement", "files"), {}),
        (("statement", "tool"), {"name": "x"}),
        (("signature", "algorithm"), "none"),
        (("signature", "public_key"), "AAAA"),
        (("signature", "public_key"), "!"),
        (("signature", "value"), "ä"),
        (("surprise",), 1),
    ],
)
def test_a_field_of_another_kind_is_malformed(where: tuple[str, ...], value: Any) -> None:
    def change(body: Any) -> None:
        for name in where[:-1]:
            body = body[name]
        body[where[-1]] = value

    with pytest.raises(Malformed):
        check(edited(change), FILES)


def test_a_file_named_twice_is_malformed() -> None:
    def twice(body: Any) -> None:
        body["statement"]["files"].append(body["statement"]["files"][-1])

    with pytest.raises(Malformed, match="twice"):
        check(edited(twice), FILES)


def test_a_name_that_no_json_can_carry_is_refused() -> None:
    with pytest.raises(ValueError, match=r".+"):
        sign({"evidence/\udcff.png": File("a" * 64, 1)}, KEY, tool=TOOL, created=WHEN)


def test_the_private_key_is_not_in_the_file() -> None:
    secret = KEY.private_bytes_raw()
    data = signed()
    assert secret not in data
    assert base64.b64encode(secret) not in data
    assert secret.hex().encode() not in data
