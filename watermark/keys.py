"""Master keys: made, kept in private files, and everything secret derived from them.

A key file is small JSON with a version and the key's id. The id is derived from the key, so that a file which was cut
or changed is told from one that is whole; it names the key in logs and reports, where the key itself never appears.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auditor.engine.files import output_errors, write_all
from auditor.errors import MalformedArtifact, UsageError
from auditor.text import inert

__all__ = [
    "KEY_BYTES",
    "NONCE_BYTES",
    "MasterKey",
    "Stream",
    "hkdf_sha256",
    "load_key",
    "make_key_file",
    "new_nonce",
    "readable_by_others",
]

KEY_BYTES = 32
NONCE_BYTES = 12
_FORMAT = "auditor-watermark-key"
_VERSION = 1
_ID_BYTES = 8
_LARGEST_FILE = 4096
_DOMAIN = b"personalized-model-auditor/watermark/v1|"


@dataclass(frozen=True)
class MasterKey:
    """A master key of 256 bits. It is shown by its id only.

    Attributes:
        secret: the key; nothing prints it.
    """

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for another length."""
        if len(self.secret) != KEY_BYTES:
            raise ValueError(f"a master key has {KEY_BYTES} bytes")

    @classmethod
    def generate(cls) -> MasterKey:
        """A new key from the system's source of randomness."""
        return cls(secrets.token_bytes(KEY_BYTES))

    @property
    def id(self) -> str:
        """16 hexadecimal digits that name the key and give nothing of it away."""
        return self.derive("id")[:_ID_BYTES].hex()

    def derive(self, purpose: str, nonce: bytes = b"") -> bytes:
        """32 bytes for one purpose, and for one picture where a nonce is given (HKDF-SHA256, RFC 5869)."""
        return hkdf_sha256(self.secret, salt=nonce, info=_DOMAIN + purpose.encode())

    def stream(self, purpose: str, nonce: bytes = b"") -> Stream:
        """A stream of pseudorandom values for one purpose, from its start."""
        return Stream(self.derive(purpose, nonce))

    def __repr__(self) -> str:
        return f"MasterKey(id={self.id})"


class Stream:
    """Pseudorandom values from a key of 32 bytes: SHAKE-256 in blocks. The same key gives the same values anywhere."""

    def __init__(self, key: bytes) -> None:
        self._key, self._block = key, 0

    def bytes(self, count: int) -> bytes:
        """The next ``count`` bytes. Each call starts a block of its own."""
        self._block += 1
        return hashlib.shake_256(self._key + self._block.to_bytes(8, "big")).digest(count)

    def words(self, count: int) -> NDArray[np.uint64]:
        """Uniform 64-bit words (count,)."""
        return np.frombuffer(self.bytes(8 * count), dtype=">u8").astype(np.uint64)

    def bits(self, count: int) -> NDArray[np.uint8]:
        """Fair bits (count,)."""
        return np.unpackbits(np.frombuffer(self.bytes((count + 7) // 8), dtype=np.uint8), count=count)

    def signs(self, count: int) -> NDArray[np.float64]:
        """Fair signs (count,), -1.0 or 1.0."""
        return 2 * self.bits(count).astype(np.float64) - 1

    def uniforms(self, count: int) -> NDArray[np.float64]:
        """Uniform in (0, 1), ends excluded, with 53 bits."""
        return ((self.words(count) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53

    def normals(self, count: int) -> NDArray[np.float64]:
        """Standard normal (count,), by the inverse of the distribution function."""
        from scipy.special import ndtri

        return np.asarray(ndtri(self.uniforms(count)), dtype=np.float64)

    def permutation(self, count: int) -> NDArray[np.intp]:
        """A random order of ``range(count)``; ties between sort keys have probability 2**-64 a pair."""
        return np.argsort(self.words(count), kind="stable")


def hkdf_sha256(secret: bytes, salt: bytes, info: bytes, length: int = 32) -> bytes:
    """Extract-and-expand key derivation with HMAC-SHA256 (H. Krawczyk and P. Eronen, RFC 5869, 2010)."""
    extracted = hmac.digest(salt or bytes(32), secret, "sha256")
    out, block = b"", b""
    for count in range(1, -(-length // 32) + 1):
        block = hmac.digest(extracted, block + info + bytes([count]), "sha256")
        out += block
    return out[:length]


def new_nonce() -> bytes:
    """A fresh nonce from the system's source of randomness; one for every picture, never used again."""
    return secrets.token_bytes(NONCE_BYTES)


def make_key_file(path: Path) -> MasterKey:
    """Makes a new key and writes it to ``path``, readable by its owner alone (mode 0600).

    Raises:
        UsageError: there is a file of that name already.
        OutputError: it cannot be written.
    """
    shown = inert(str(path), 300)
    if not path.name:
        raise UsageError(f"'{shown}' is a folder; name a file for the key")
    if os.path.lexists(path):
        raise UsageError(f"'{shown}' exists already and is not written over")
    key = MasterKey.generate()
    with output_errors(path):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            write_all(handle, _encode(key))
            os.fsync(handle)
        finally:
            os.close(handle)
    return key


def load_key(path: Path) -> MasterKey:
    """Reads a key file.

    Raises:
        UsageError: there is no such file, or it is no key file of ours.
        MalformedArtifact: it is one, but cut short or changed, or of a later version.
    """
    shown = inert(str(path), 300)
    try:
        # A pipe would block, a device would not end.
        if path.exists() and not path.is_file():
            raise UsageError(f"the key '{shown}' is not a file")
        with path.open("rb") as file:
            data = file.read(_LARGEST_FILE + 1)
    except OSError as problem:
        reason = (problem.strerror or type(problem).__name__).lower()
        raise UsageError(f"the key '{shown}' cannot be read: {reason}") from problem
    if len(data) > _LARGEST_FILE or _FORMAT.encode() not in data:
        raise UsageError(f"'{shown}' is not a watermark key (auditor watermark keygen)")
    return _decode(data, shown)


def readable_by_others(path: Path) -> bool:
    """Whether anybody but its owner may read or write a key file."""
    return os.name == "posix" and bool(path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO))


def _encode(key: MasterKey) -> bytes:
    text = base64.b64encode(key.secret).decode("ascii")
    document = {"format": _FORMAT, "version": _VERSION, "id": key.id, "key": text}
    return (json.dumps(document, indent=1) + "\n").encode("ascii")


def _decode(data: bytes, shown: str) -> MasterKey:
    broken = f"the key file '{shown}' was cut short or changed; restore it from a copy"
    try:
        document: Any = json.loads(data.decode("ascii"))
        version = document["version"]
        if version != _VERSION:
            raise MalformedArtifact(
                f"the key file '{shown}' is of version {inert(str(version), 20)}; this release reads {_VERSION}"
            )
        key = MasterKey(base64.b64decode(document["key"], validate=True))
        told = str(document["id"])
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error):
        # Not chained: the text of such an error may hold a piece of the key.
        raise MalformedArtifact(broken) from None
    if document.get("format") != _FORMAT or not hmac.compare_digest(told.encode(), key.id.encode()):
        raise MalformedArtifact(broken)
    return key
