"""C2PA manifests beside a mark: each names the other, so that neither can be taken away or put elsewhere unseen.

The manifest holds a soft binding with the scheme and what its mark carries, nonce and payload, which anybody may know.
The other way round, the id of the manifest is a keyed hash of the nonce: whoever finds the mark with the key knows
which id its manifest must have, before one is there and without a database. Source: C2PA Technical Specification 2.4,
"Soft bindings".
"""

from __future__ import annotations

import base64
import io
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from auditor.contracts import JsonValue
from auditor.errors import MalformedArtifact, MissingExtra, UsageError
from auditor.text import inert
from watermark.detection import Detection
from watermark.keys import MasterKey

__all__ = [
    "Credentials",
    "Manifest",
    "Provenance",
    "compared",
    "load_credentials",
    "manifest_id",
    "read_manifest",
    "signed_picture",
]

_ALGORITHM = "org.personalized-model-auditor.{}.v1"
_LABEL = "c2pa.soft-binding"
_MADE_BY_A_MODEL = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_KINDS = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
# Nothing is fetched for a file that anybody may have sent, and who is trusted is for the reader to say.
_SETTINGS = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_trust": False},
    "builder": {"thumbnail": {"enabled": False}},
}


class Provenance(StrEnum):
    """What mark and manifest of one picture say together."""

    MATCH = "match"
    """Both are there, and each names the other."""
    WATERMARK_ONLY = "watermark-only"
    """There is no manifest: it was stripped, or never added."""
    METADATA_ONLY = "metadata-only"
    """A manifest names a mark that is not found: it was removed, or the manifest was pasted."""
    CONFLICT = "conflict"
    """They name something else, or the manifest does not hold."""
    NONE = "none"
    """No mark, and no manifest that names one."""


@dataclass(frozen=True)
class Manifest:
    """What a picture's active manifest says of a mark.

    Attributes:
        valid: whether its signature and the picture's bytes hold; not whether its signer is trusted.
        id: its instance id.
        signer: who signed, as the certificate says.
        algorithm: of the soft binding; empty where it has none.
        value: what the mark carries according to it.
        problem: why it is not valid, in a few words.
    """

    valid: bool
    id: str = ""
    signer: str = ""
    algorithm: str = ""
    value: bytes = b""
    problem: str = ""

    def document(self) -> dict[str, JsonValue]:
        """As JSON values, made inert."""
        return {
            "valid": self.valid,
            "id": inert(self.id, 100),
            "signer": inert(self.signer, 100),
            "algorithm": inert(self.algorithm, 100),
            "value": self.value.hex()[:200],
            "problem": inert(self.problem, 200),
        }


@dataclass(frozen=True)
class Credentials:
    """What signs.

    Attributes:
        certificates: the chain in PEM, the signer's own first.
        algorithm: as the library calls it, such as ``ES256``.
        sign: from bytes to a signature in the form that COSE asks for.
    """

    certificates: str
    algorithm: str
    sign: Callable[[bytes], bytes]


def manifest_id(key: MasterKey, scheme: str, nonce: bytes) -> str:
    """The id of the manifest that belongs to a mark: a keyed hash of its nonce, as a UUID."""
    return f"urn:uuid:{uuid.UUID(bytes=key.derive(f'manifest|{scheme}', nonce)[:16], version=4)}"


def signed_picture(data: bytes, found: Detection, key: MasterKey, credentials: Credentials) -> bytes:
    """The picture file with a manifest that names its mark; its pixels are left as they are.

    Args:
        data: a PNG, JPEG or WebP file.
        found: the mark as it was detected, its nonce as :func:`watermark.forgery.witness.with_whole_nonce` gives it.
        key: the master key.
        credentials: what signs.

    Raises:
        MissingExtra: the library is not there.
        UsageError: the mark has no nonce, or the certificates are not ones that C2PA allows.
        MalformedArtifact: the file is no picture of these kinds, or broken.
    """
    c2pa = _library()
    if found.nonce is None:
        raise UsageError(f"marks of {inert(found.scheme)} have no nonce that a manifest could name")
    kind, out = _kind_of(data), io.BytesIO()
    try:
        signer = c2pa.Signer.from_callback(
            credentials.sign, getattr(c2pa.C2paSigningAlg, credentials.algorithm), credentials.certificates
        )
        definition = json.dumps(_definition(found, manifest_id(key, found.scheme, found.nonce), kind))
        builder = c2pa.Builder(definition, context=_context(c2pa))
        builder.sign(signer, kind, io.BytesIO(data), out)
    except c2pa.C2paError as error:
        raise UsageError(f"the manifest could not be signed: {inert(str(error), 200)}") from error
    return out.getvalue()


def read_manifest(data: bytes) -> Manifest | None:
    """What the active manifest in a picture file says, or None where there is none.

    A manifest that cannot be read is one that is not valid. Nothing is fetched.

    Raises:
        MissingExtra: the library is not there.
        MalformedArtifact: the file is no picture of the kinds that carry manifests.
    """
    c2pa = _library()
    try:
        reader = c2pa.Reader.try_create(_kind_of(data), io.BytesIO(data), context=_context(c2pa))
        if reader is None:
            return None
        with reader:
            store = json.loads(reader.json())
        return _told(store)
    except c2pa.C2paError as error:
        return Manifest(valid=False, problem=str(error))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return Manifest(valid=False, problem=f"it is malformed ({type(error).__name__})")


def compared(
    found: Detection, marked: bool, manifest: Manifest | None, key: MasterKey
) -> tuple[Provenance, str]:
    """What mark and manifest say together, and why where they do not match.

    Args:
        found: the detection, its nonce as in :func:`signed_picture`.
        marked: whether it comes to a mark at the level that was asked for.
        manifest: of the same file; None where it has none.
        key: the master key.
    """
    if not marked:
        names_one = manifest is not None and bool(manifest.algorithm)
        return (Provenance.METADATA_ONLY, "its mark is not found") if names_one else (Provenance.NONE, "")
    if manifest is None:
        return Provenance.WATERMARK_ONLY, "there is no manifest"
    against = _against(found, manifest, key)
    return (Provenance.CONFLICT, against) if against else (Provenance.MATCH, "")


def load_credentials(certificates: Path, private_key: Path) -> Credentials:
    """Reads a certificate chain and its private key, both PEM.

    Raises:
        UsageError: a file cannot be read, or the key is of a kind that C2PA does not sign with.
    """
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    chain = _read(certificates, "certificates").decode("ascii", "replace")
    shown = inert(str(private_key), 300)
    try:
        key = load_pem_private_key(_read(private_key, "private key"), None)
    except (ValueError, TypeError):
        # Not chained: the text of such an error may hold a piece of the key.
        raise UsageError(f"'{shown}' is not an unencrypted private key in PEM") from None
    return Credentials(chain, *_signing(key, shown))


def _signing(key: Any, shown: str) -> tuple[str, Callable[[bytes], bytes]]:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ED25519", key.sign
    digest = {"secp256r1": hashes.SHA256(), "secp384r1": hashes.SHA384()}
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in digest:
        raise UsageError(f"the key '{shown}' signs no manifests; use P-256, P-384 or Ed25519")
    curve = key.curve
    width = curve.key_size // 8

    def sign(data: bytes) -> bytes:
        r, s = decode_dss_signature(key.sign(data, ec.ECDSA(digest[curve.name])))
        return r.to_bytes(width, "big") + s.to_bytes(width, "big")

    return ("ES256" if width == 32 else "ES384"), sign


def _against(found: Detection, manifest: Manifest, key: MasterKey) -> str:
    if not manifest.valid:
        return "its manifest does not hold"
    if not manifest.algorithm:
        return "its manifest names no mark"
    nonce = found.nonce or b""
    # Payloads may be read with errors; a nonce that is found at all is found whole.
    if manifest.algorithm != _ALGORITHM.format(found.scheme) or not manifest.value.startswith(nonce):
        return "its manifest names another mark"
    if manifest.id != manifest_id(key, found.scheme, nonce):
        return "its mark names another manifest"
    return ""


def _definition(found: Detection, identity: str, kind: str) -> dict[str, JsonValue]:
    from importlib.metadata import version

    value = base64.b64encode((found.nonce or b"") + found.payload).decode("ascii")
    created = {"action": "c2pa.created", "digitalSourceType": _MADE_BY_A_MODEL}
    binding = {"alg": _ALGORITHM.format(found.scheme), "blocks": [{"scope": {}, "value": value}]}
    tool = "personalized-model-auditor"
    return {
        "claim_generator_info": [{"name": tool, "version": version(tool)}],
        "format": kind,
        "instance_id": identity,
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": [created]}},
            {"label": _LABEL, "data": binding},
        ],
    }


def _told(store: dict[str, Any]) -> Manifest:
    active = store["manifests"][store["active_manifest"]]
    valid = store.get("validation_state") in ("Valid", "Trusted")
    failures = store.get("validation_results", {}).get("activeManifest", {}).get("failure", [])
    bindings = [each["data"] for each in active.get("assertions", []) if each["label"] == _LABEL]
    algorithm, value = "", b""
    if bindings:
        algorithm = str(bindings[0]["alg"])
        value = base64.b64decode(str(bindings[0]["blocks"][0]["value"]), validate=True)
    return Manifest(
        valid=valid,
        id=str(active.get("instance_id", "")),
        signer=str(active.get("signature_info", {}).get("common_name", "")),
        algorithm=algorithm,
        value=value,
        problem=", ".join(str(each["code"]) for each in failures),
    )


def _kind_of(data: bytes) -> str:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=tuple(_KINDS)) as opened:
            return _KINDS[str(opened.format)]
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise MalformedArtifact("manifests are read from and written to PNG, JPEG and WebP files only") from error


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        reason = (problem.strerror or type(problem).__name__).lower()
        raise UsageError(f"the {what} '{inert(str(path), 300)}' cannot be read: {reason}") from problem


def _context(c2pa: Any) -> Any:
    return c2pa.Context(c2pa.Settings.from_dict(_SETTINGS))


def _library() -> Any:
    try:
        import c2pa
    except ImportError as error:
        raise MissingExtra("manifests need c2pa-python: pip install 'personalized-model-auditor[c2pa]'") from error
    return c2pa
