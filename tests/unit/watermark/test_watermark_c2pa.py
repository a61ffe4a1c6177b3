"""Marks and manifests that name each other: signed, read back, stripped, pasted and changed."""

import datetime
import io
import json

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from PIL import Image

from auditor.cli.main import run
from auditor.errors import MalformedArtifact, MissingExtra, UsageError
from watermark.detection import Detection, Method
from watermark.keys import MasterKey
from watermark.manifests import (
    Manifest,
    Provenance,
    compared,
    load_credentials,
    manifest_id,
    read_manifest,
    signed_picture,
)

pytest.importorskip("c2pa", reason="c2pa-python is not installed")
KEY = MasterKey(bytes(range(32)))
FOUND = Detection("tail_sign", 1e-9, Method.EXACT, 1.0, 10, 1e-60, nonce=bytes(range(12)), payload=b"\x07\x08")
PEM = serialization.Encoding.PEM


def certified(folder, private):
    """A root of our own and a signer's certificate as C2PA asks for it; paths of chain and key."""
    root, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    uses = dict.fromkeys(
        ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
         "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"), False,
    )  # fmt: skip

    def name(common):
        named = ((NameOID.ORGANIZATION_NAME, "Test"), (NameOID.COMMON_NAME, common))
        return x509.Name([x509.NameAttribute(*pair) for pair in named])

    def certificate(common, public, ca, **used):
        day = datetime.timedelta(days=1)
        made = x509.CertificateBuilder().subject_name(name(common)).issuer_name(name("root")).public_key(public)
        made = made.serial_number(x509.random_serial_number()).not_valid_before(now - day).not_valid_after(now + day)
        made = made.add_extension(x509.BasicConstraints(ca, None), True)
        made = made.add_extension(x509.KeyUsage(**uses | used), True)
        made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
        made = made.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key()), False)
        if not ca:
            made = made.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), True)
        return made.sign(root, hashes.SHA256()).public_bytes(PEM)

    chain, key = folder / "chain.pem", folder / "sign.pem"
    own = certificate("signer", private.public_key(), False, digital_signature=True)
    chain.write_bytes(own + certificate("root", root.public_key(), True, key_cert_sign=True))
    form = serialization.PrivateFormat.PKCS8
    key.write_bytes(private.private_bytes(PEM, form, serialization.NoEncryption()))
    return chain, key


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return certified(tmp_path_factory.mktemp("certified"), ec.generate_private_key(ec.SECP256R1()))


def picture(kind="PNG", seed=0):
    data = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(data, kind)
    return data.getvalue()


def state(found, manifest, key=KEY, marked=True):
    return compared(found, marked, manifest, key)[0]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_manifest_is_read_back_and_matches_its_mark(paths, kind):
    signed = signed_picture(picture(kind), FOUND, KEY, load_credentials(*paths))
    pixels = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in (picture(kind), signed)]
    assert np.array_equal(*pixels)
    manifest = read_manifest(signed)
    assert manifest.valid
    assert manifest.signer == "signer"
    assert manifest.value == FOUND.nonce + FOUND.payload
    assert manifest.id == manifest_id(KEY, "tail_sign", FOUND.nonce)
    assert state(FOUND, manifest) is Provenance.MATCH
    assert KEY.secret.hex() not in json.dumps(manifest.document())


def test_what_was_taken_away_pasted_or_changed_is_told(paths):
    credentials = load_credentials(*paths)
    signed = signed_picture(picture(), FOUND, KEY, credentials)
    manifest = read_manifest(signed)
    assert state(FOUND, None) is Provenance.WATERMARK_ONLY
    assert state(FOUND, manifest, marked=False) is Provenance.METADATA_ONLY
    assert state(FOUND, None, marked=False) is Provenance.NONE
    other = Detection("tail_sign", 1e-9, Method.EXACT, 1.0, 10, 1e-60, nonce=bytes(12), payload=b"\x07\x08")
    assert compared(other, True, manifest, KEY) == (Provenance.CONFLICT, "its manifest names another mark")
    assert state(FOUND, manifest, MasterKey(bytes(32))) is Provenance.CONFLICT
    broken = bytearray(signed)
    broken[broken.rindex(b"IDAT") + 20] ^= 1
    found = read_manifest(bytes(broken))
    assert not found.valid
    assert "dataHash" in found.problem
    assert compared(FOUND, True, found, KEY) == (Provenance.CONFLICT, "its manifest does not hold")
    assert compared(FOUND, True, Manifest(valid=True), KEY)[1] == "its manifest names no mark"
    assert read_manifest(picture()) is None


@pytest.mark.parametrize("private", [ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()])
def test_other_keys_that_c2pa_allows_sign_too(tmp_path, private):
    signed = signed_picture(picture(), FOUND, KEY, load_credentials(*certified(tmp_path, private)))
    assert read_manifest(signed).valid


def test_what_cannot_be_done_is_said(paths, tmp_path, monkeypatch):
    chain, key = paths
    credentials = load_credentials(chain, key)
    with pytest.raises(UsageError, match="no nonce"):
        signed_picture(picture(), Detection("hstr", 1e-9, Method.EXACT, 1.0, 10, 1e-60), KEY, credentials)
    with pytest.raises(MalformedArtifact, match="PNG, JPEG and WebP"):
        signed_picture(b"x", FOUND, KEY, credentials)
    with pytest.raises(UsageError, match="not an unencrypted private key"):
        load_credentials(chain, chain)
    with pytest.raises(UsageError, match="cannot be read"):
        load_credentials(tmp_path / "none", key)
    with pytest.raises(UsageError, match="P-256"):
        load_credentials(*certified(tmp_path, rsa.generate_private_key(65537, 2048)))
    (tmp_path / "c").write_text("no certificate")
    with pytest.raises(UsageError, match="could not be signed"):
        signed_picture(picture(), FOUND, KEY, load_credentials(tmp_path / "c", key))
    monkeypatch.setitem(__import__("sys").modules, "c2pa", None)
    with pytest.raises(MissingExtra, match=r"auditor\[c2pa\]"):
        read_manifest(picture())


def test_the_commands_bind_and_tell(paths, tmp_path, capsys):
    chain, private = map(str, paths)
    key, marked, bound = tmp_path / "k", tmp_path / "out", tmp_path / "bound.png"
    run(["watermark", "keygen", "-o", str(key)])
    common = ["--key", str(key), "--scheme", "noise_print"]
    drawing = ["--prompt", "a picture of a red ball", "--steps", "8", "--guidance", "1"]
    assert run(["watermark", "embed", *common, *drawing, "-o", str(marked)]) == 0
    common += ["--nonces", str(marked / "issued.jsonl"), "--alpha", "1e-2"]
    signing = ["--cert", chain, "--private-key", private]
    plain = marked / "0000.png"
    capsys.readouterr()
    assert run(["watermark", "bind-c2pa", str(plain), *common, *signing, "-o", str(bound), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["manifest"].startswith("urn:uuid:")
    assert run(["watermark", "detect", str(bound), str(plain), *common, "--c2pa", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["pictures"]
    assert [row["provenance"]["state"] for row in told] == ["match", "watermark-only"]
    assert run(["watermark", "detect", str(bound), *common, "--c2pa"]) == 0
    assert "provenance: MATCH" in capsys.readouterr().out
    assert run(["watermark", "bind-c2pa", str(plain), *common, *signing, "-o", str(bound)]) == 64
    Image.effect_noise((64, 64), 60).convert("RGB").save(tmp_path / "64.png")
    assert run(["watermark", "bind-c2pa", str(tmp_path / "64.png"), *common, *signing, "-o", str(tmp_path / "x")]) == 1
    assert not (tmp_path / "x").exists()
