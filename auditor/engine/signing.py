"""Keys and signatures on disk: made once, kept private, and checked without leaving the run's folder."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from auditor.engine.files import LOCK, output_errors, write_all, write_atomic
from auditor.engine.rundir import PLAN, REPORT, open_run
from auditor.errors import SignatureError, UsageError
from auditor.text import inert
from reports.sign import MALFORMED, SIGNATURE_FILE, Check, File, Malformed, check, fingerprint, sign

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = ["Verified", "loose_permissions", "make_keys", "sign_run", "verify_run"]

_CHUNK = 1 << 20
_MAX_SIGNATURE = 64 << 20
_MAX_KEY = 1 << 16
# A link in the last place is not followed, and a pipe does not block.
_CAREFUL = (
    os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
)


@dataclass(frozen=True)
class Verified:
    """A check of a run.

    Attributes:
        check: of the signature against the files that are there.
        odd: paths of links, pipes and other things that are no files; they are never opened.
    """

    check: Check
    odd: tuple[str, ...]

    @property
    def intact(self) -> bool:
        """Exactly what was signed is there, and nothing else."""
        return self.check.intact and not self.odd


def make_keys(path: Path) -> str:
    """Makes a new pair: the private key as PKCS#8 PEM at ``path``, the public one beside it with ``.pub``.

    Returns:
        The fingerprint of the public key.

    Raises:
        UsageError: there is a file of either name already.
        OutputError: they cannot be written.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    if not path.name:
        raise UsageError(f"'{inert(str(path), 300)}' is a folder; name a file for the private key")
    public_path = path.with_name(path.name + ".pub")
    for each in (path, public_path):
        if os.path.lexists(each):
            raise UsageError(f"'{inert(str(each), 300)}' exists already and is not written over")
    key = Ed25519PrivateKey.generate()
    public = key.public_key()
    _write_new(public_path, public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), 0o644)
    try:
        _write_new(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
    except BaseException:
        public_path.unlink(missing_ok=True)
        raise
    return fingerprint(public)


def loose_permissions(path: Path) -> bool:
    """Whether others than its owner can read or write a private key."""
    return os.name == "posix" and bool(path.stat().st_mode & 0o077)


def sign_run(run: Path, key_path: Path, *, replace: bool = False) -> Check:
    """Signs every file of a finished run, and checks the signature before it returns.

    Args:
        run: its directory.
        key_path: the private key.
        replace: whether a signature that is there may be written over.

    Raises:
        UsageError: not a finished run, not a private key, or signed already.
        SignatureError: the run holds links or other things that are no files, or unreadable names.
        OutputError: a file of evidence is missing or changed, or the signature cannot be written.
    """
    key = _private_key(key_path)
    shown = inert(str(run), 300)
    target = run / SIGNATURE_FILE
    if os.path.lexists(target) and not replace:
        raise UsageError(f"{shown} is signed already; --replace signs it again")
    # A link is found before anything behind it is read.
    files, odd = _files(run) if os.path.lexists(run / REPORT) else ({}, ())
    if odd:
        raise SignatureError(f"{shown} holds '{inert(odd[0], 200)}', which is not a file: nothing was signed")
    finished = open_run(run)
    for shown_by in (finished.report.results, finished.report.findings):
        for sha256 in (item.sha256 for each in shown_by for item in each.evidence):
            finished.evidence(sha256)
    try:
        data = sign(files, key, tool=_tool(), created=_now())
    except ValueError as problem:
        raise SignatureError(
            f"{shown} holds a name that no signature can carry: nothing was signed"
        ) from problem
    write_atomic(target, data)
    return check(data, files, key.public_key())


def verify_run(run: Path, key_path: Path | None = None) -> Verified:
    """Checks a run against its signature. Only files inside ``run`` are read, whatever the signature names.

    Args:
        run: its directory.
        key_path: the public key that must have signed.

    Raises:
        UsageError: not a run, or not a public key.
        SignatureError: no signature, or one that cannot be read.
    """
    key = _public_key(key_path) if key_path else None
    shown = inert(str(run), 300)
    if not run.is_dir():
        raise UsageError(f"there is no run '{shown}'; check the path")
    if not os.path.lexists(run / SIGNATURE_FILE):
        if not any((run / name).exists() for name in (REPORT, PLAN)):
            raise UsageError(f"{shown} is not the directory of a run")
        raise SignatureError(f"{shown} is not signed: it has no {SIGNATURE_FILE} (auditor report sign)")
    try:
        data = _read(run / SIGNATURE_FILE, _MAX_SIGNATURE)
        files, odd = _files(run)
        return Verified(check(data, files, key), odd)
    except Malformed as problem:
        raise SignatureError(f"{SIGNATURE_FILE} of {shown} {MALFORMED}: {problem}") from problem
    except OSError as problem:
        reason = (problem.strerror or type(problem).__name__).lower()
        raise SignatureError(f"{shown} cannot be read to its end: {reason}") from problem


def _files(run: Path) -> tuple[dict[str, File], tuple[str, ...]]:
    """Every file by relative path but signature and lock; and what is no file, unopened."""
    files: dict[str, File] = {}
    odd: list[str] = []
    folders = [(run, "")]
    while folders:
        folder, prefix = folders.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                name = f"{prefix}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    folders.append((Path(entry.path), f"{name}/"))
                elif not entry.is_file(follow_symlinks=False):
                    odd.append(name)
                elif name not in (SIGNATURE_FILE, LOCK):
                    files[name] = _hashed(Path(entry.path))
    return files, tuple(sorted(odd))


def _hashed(path: Path) -> File:
    digest, size = hashlib.sha256(), 0
    handle = _opened(path)
    try:
        while chunk := os.read(handle, _CHUNK):
            digest.update(chunk)
            size += len(chunk)
    finally:
        os.close(handle)
    return File(digest.hexdigest(), size)


def _read(path: Path, limit: int) -> bytes:
    handle = _opened(path)
    with os.fdopen(handle, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise Malformed("it is too large")
    return data


def _opened(path: Path) -> int:
    handle = os.open(path, _CAREFUL)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(0, "not a file")
    return handle


def _private_key(path: Path) -> Ed25519PrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data, shown = _key_bytes(path)
    if b"PUBLIC KEY-----" in data:
        raise UsageError(f"'{shown}' is a public key; signing needs the private one, without .pub")
    try:
        key = load_pem_private_key(data, password=None)
    except TypeError as problem:
        raise UsageError(f"'{shown}' is locked with a passphrase; unlock a copy of it first") from problem
    except (ValueError, UnsupportedAlgorithm) as problem:
        raise UsageError(f"'{shown}' is not a private key in PEM (auditor report keygen)") from problem
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"'{shown}' is a key of another kind than Ed25519 (auditor report keygen)")
    return key


def _public_key(path: Path) -> Ed25519PublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    data, shown = _key_bytes(path)
    if b"PRIVATE KEY-----" in data:
        raise UsageError(f"'{shown}' is a private key; verifying needs the public one, with .pub")
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as problem:
        raise UsageError(f"'{shown}' is not a public key in PEM (auditor report keygen)") from problem
    if not isinstance(key, Ed25519PublicKey):
        raise UsageError(f"'{shown}' is a key of another kind than Ed25519 (auditor report keygen)")
    return key


def _key_bytes(path: Path) -> tuple[bytes, str]:
    shown = inert(str(path), 300)
    try:
        with path.open("rb") as file:
            return file.read(_MAX_KEY), shown
    except OSError as problem:
        reason = (problem.strerror or type(problem).__name__).lower()
        raise UsageError(f"the key '{shown}' cannot be read: {reason}") from problem


def _write_new(path: Path, data: bytes, mode: int) -> None:
    with output_errors(path):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            write_all(handle, data)
            os.fsync(handle)
        finally:
            os.close(handle)


def _tool() -> dict[str, str]:
    from importlib.metadata import version

    name = "personalized-model-auditor"
    return {"name": name, "version": version(name)}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
