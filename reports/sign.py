"""Detached signatures of runs: bytes in, bytes out, and what differs by name.

What is signed is a *statement*: every file of the run by relative path, SHA-256 and size, with the tool and the
time. It is encoded as canonical JSON after RFC 8785, restricted to strings, whole numbers, lists and objects:
no white space, keys sorted by their UTF-16 code units, UTF-8, and the shortest escapes. The signature is
Ed25519 (RFC 8032) over the pre-authentication encoding of DSSE v1, whose payload type keeps it from being taken
for a signature of anything else. A signature file has one form only, byte for byte: whatever differs from it
in a single byte is refused.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

__all__ = [
    "MALFORMED",
    "PAYLOAD_TYPE",
    "SIGNATURE_FILE",
    "Check",
    "File",
    "Malformed",
    "canonical",
    "check",
    "fingerprint",
    "pre_authentication",
    "sign",
]

SIGNATURE_FILE = "report.sig.json"
PAYLOAD_TYPE = "application/vnd.personalized-model-auditor.run+json"
MALFORMED = "is not a signature as this tool writes it"

_FORMAT = "auditor.run-signature"
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Malformed(ValueError):
    """A signature file that cannot be read; nothing can be said about the run."""


@dataclass(frozen=True)
class File:
    """A file by its SHA-256 in hexadecimal and its size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Check:
    """What a signature says about the files that are there.

    Attributes:
        genuine: the signature is one over this statement, by the key that was checked against.
        signer: fingerprint of the key that the file names.
        expected: whether that is the key that was asked for; None if none was.
        created: when it was signed, as the signer says.
        tool: name and version of what signed, as the signer says.
        signed: how many files the statement names.
        changed: paths whose bytes differ.
        missing: paths that are not there.
        added: paths that were not signed.
    """

    genuine: bool
    signer: str
    expected: bool | None
    created: str
    tool: str
    signed: int
    changed: tuple[str, ...]
    missing: tuple[str, ...]
    added: tuple[str, ...]

    @property
    def intact(self) -> bool:
        """A genuine signature over exactly the files that are there, and by no other key than asked for."""
        same = not (self.changed or self.missing or self.added)
        return self.genuine and same and self.expected is not False


def sign(
    files: Mapping[str, File], key: Ed25519PrivateKey, *, tool: Mapping[str, str], created: str
) -> bytes:
    """The signature file of a run.

    Args:
        files: by relative path with forward slashes.
        key: the private key; nothing of it gets into the result.
        tool: ``name`` and ``version`` of what signs.
        created: time in ISO 8601.

    Returns:
        UTF-8 JSON.

    Raises:
        ValueError: a path is absolute, climbs, or cannot be written as UTF-8.
    """
    for path in files:
        if not _relative(path):
            raise ValueError(f"{path!r} is not a path inside the run")
    statement = {
        "format": _FORMAT,
        "format_version": 1,
        "created": created,
        "tool": dict(tool),
        "files": [
            {"path": path, "sha256": file.sha256, "size": file.size} for path, file in sorted(files.items())
        ],
    }
    public = key.public_key()
    signature = {
        "algorithm": "Ed25519",
        "key": fingerprint(public),
        "public_key": _text(public.public_bytes(Encoding.Raw, PublicFormat.Raw)),
        "value": _text(key.sign(pre_authentication(PAYLOAD_TYPE, canonical(statement)))),
    }
    return _encode({"payload_type": PAYLOAD_TYPE, "statement": statement, "signature": signature})


def check(data: bytes, found: Mapping[str, File], expected: Ed25519PublicKey | None = None) -> Check:
    """Checks a signature file against the files that are there; opens none of those that it names.

    Args:
        data: of the signature file.
        found: every file of the run but the signature itself, by relative path.
        expected: the key that must have signed; without one, the key in the file is taken, which proves
            that the files fit together and not whose they are.

    Raises:
        Malformed: the file cannot be read.
    """
    document = _decode(data)
    statement, signature = document["statement"], document["signature"]
    named = _public_key(signature)
    signer = fingerprint(named)
    # The key in the file is a hint; what is asked for is what is checked against.
    key = named if expected is None else expected
    signed = {entry["path"]: File(entry["sha256"], entry["size"]) for entry in statement["files"]}
    return Check(
        genuine=_genuine(key, _bytes(signature["value"]), canonical(statement))
        and signature["key"] == signer,
        signer=signer,
        expected=None if expected is None else fingerprint(expected) == signer,
        created=statement["created"],
        tool=f"{statement['tool']['name']} {statement['tool']['version']}",
        signed=len(signed),
        changed=_sorted(path for path in signed.keys() & found.keys() if signed[path] != found[path]),
        missing=_sorted(signed.keys() - found.keys()),
        added=_sorted(found.keys() - signed.keys()),
    )


def fingerprint(key: Ed25519PublicKey) -> str:
    """SHA-256 over the key as DER SubjectPublicKeyInfo, as ``openssl pkey -pubin -outform DER`` writes it."""
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"sha256:{hashlib.sha256(der).hexdigest()}"


def canonical(value: Any) -> bytes:
    """Canonical JSON (RFC 8785) of strings, whole numbers, truth values, null, lists and objects.

    Raises:
        ValueError: a fraction, a number beyond 2^53 - 1, or text that UTF-8 has no form for.
        TypeError: anything else.
    """
    return _canonical(value).encode("utf-8")


def pre_authentication(payload_type: str, payload: bytes) -> bytes:
    """DSSE v1's encoding of what is signed: type and payload with their lengths, so that neither runs over."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _canonical(value: Any) -> str:
    if isinstance(value, Mapping):
        keys = sorted(value, key=lambda key: key.encode("utf-16-be"))
        return "{" + ",".join(f"{_canonical(key)}:{_canonical(value[key])}" for key in keys) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_canonical(item) for item in value) + "]"
    if isinstance(value, float) or (isinstance(value, int) and abs(value) > 2**53 - 1):
        raise ValueError(f"{value} has no place in a statement: only whole numbers below 2^53")
    if value is None or isinstance(value, str | int):
        return json.dumps(value, ensure_ascii=False)
    raise TypeError(f"a {type(value).__name__} has no place in a statement")


def _encode(document: Mapping[str, Any]) -> bytes:
    """The one form of a signature file: readable, keys sorted, ASCII."""
    return (json.dumps(document, indent=1, sort_keys=True, ensure_ascii=True) + "\n").encode("ascii")


def _decode(data: bytes) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(
            data.decode("ascii"), object_pairs_hook=_unique, parse_constant=_no_number, parse_float=_no_number
        )
        _check_shape(document)
        if _encode(document) != data:
            raise Malformed("its bytes are not in the form that is written")
        canonical(document)
    except Malformed:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as problem:
        raise Malformed("it cannot be read") from problem
    return document


def _check_shape(document: Any) -> None:
    """Raises unless every field is there, of its type, and no other."""
    _fields(document, {"payload_type": str, "statement": dict, "signature": dict})
    statement = document["statement"]
    shape = {"format": str, "format_version": int, "created": str, "tool": dict, "files": list}
    _fields(statement, shape)
    _fields(document["signature"], dict.fromkeys(("algorithm", "key", "public_key", "value"), str))
    _fields(statement["tool"], {"name": str, "version": str})
    for entry in statement["files"]:
        _fields(entry, {"path": str, "sha256": str, "size": int})
        if not _relative(entry["path"]) or not _SHA256.fullmatch(entry["sha256"]) or entry["size"] < 0:
            raise Malformed("it names a path outside the run, or no SHA-256")
    paths = [entry["path"] for entry in statement["files"]]
    if paths != sorted(set(paths)):
        raise Malformed("it names a file twice")
    known = (document["payload_type"], statement["format"], statement["format_version"])
    if known != (PAYLOAD_TYPE, _FORMAT, 1) or document["signature"]["algorithm"] != "Ed25519":
        raise Malformed("it is of another kind or version")


def _fields(value: Any, shape: Mapping[str, type]) -> None:
    if not isinstance(value, dict) or value.keys() != shape.keys():
        raise Malformed("a field is missing or unknown")
    for name, kind in shape.items():
        if not isinstance(value[name], kind) or isinstance(value[name], bool):
            raise Malformed("a field is of another type")


def _relative(path: str) -> bool:
    parts = path.split("/")
    return "\0" not in path and all(part not in ("", ".", "..") for part in parts)


def _public_key(signature: Mapping[str, str]) -> Ed25519PublicKey:
    raw = _bytes(signature["public_key"])
    if len(raw) != 32:
        raise Malformed("it holds no Ed25519 key")
    return Ed25519PublicKey.from_public_bytes(raw)


def _genuine(key: Ed25519PublicKey, signature: bytes, statement: bytes) -> bool:
    try:
        key.verify(signature, pre_authentication(PAYLOAD_TYPE, statement))
    except InvalidSignature:
        return False
    return True


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as problem:
        raise Malformed("it holds text that is not base64") from problem
    if _text(data) != text:
        raise Malformed("it holds base64 in another form than written")
    return data


def _sorted(paths: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(paths))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise Malformed("a key appears twice in one object")
    return out


def _no_number(text: str) -> NoReturn:
    raise Malformed(f"{text[:20]} is not a whole number")
