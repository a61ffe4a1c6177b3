"""Runs on disk that somebody changed after they were signed: every difference is found, and named."""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from report_parts import Store
from report_samples import reject

from auditor.engine import signing
from auditor.engine.signing import Verified, loose_permissions, make_keys, sign_run, verify_run
from auditor.errors import OutputError, SignatureError, UsageError
from reports.sign import SIGNATURE_FILE
from reports.writers import html
from reports.writers import json as json_writer

SUFFIXES = {"image/svg+xml": ".svg", "image/png": ".png", "text/plain": ".txt"}


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    for name in ("audit", "other"):
        make_keys(folder / name)
    return folder


@pytest.fixture(scope="session")
def signed_run(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Path:
    """A run directory with every kind of file that one holds, signed."""
    run = tmp_path_factory.mktemp("signed") / "run"
    report, evidence = reject()
    (run / "evidence").mkdir(parents=True)
    (run / "blobs").mkdir()
    items = [item for each in (*report.results, *report.findings) for item in each.evidence]
    for item in items:
        (run / "evidence" / f"{item.sha256}{SUFFIXES[item.media_type]}").write_bytes(evidence(item.sha256))
    (run / "blobs" / f"{'e' * 64}.json").write_bytes(b"[1,2]")
    (run / "plan.json").write_bytes(b'{"format": "auditor.plan"}\n')
    (run / "events.jsonl").write_bytes(b'{"type":"begin"}\n{"type":"end"}\n')
    (run / "report.json").write_bytes(json_writer.write(report, Store().__getitem__))
    (run / "report.html").write_bytes(html.write(report, evidence))
    (run / ".run-lock").touch()
    sign_run(run, keys / "audit")
    return run


@pytest.fixture
def run(tmp_path: Path, signed_run: Path) -> Path:
    return Path(shutil.copytree(signed_run, tmp_path / "run"))


def files(run: Path) -> list[Path]:
    return sorted(path for path in run.rglob("*") if path.is_file() and path.name != ".run-lock")


def named(found: Verified) -> set[str]:
    check = found.check
    return {*check.changed, *check.missing, *check.added, *found.odd}


def first(run: Path, pattern: str) -> Path:
    return min(run.glob(pattern))


def test_an_untouched_run_is_verified(run: Path, keys: Path) -> None:
    found = verify_run(run, keys / "audit.pub")
    assert found.intact
    assert found.check.expected is True
    assert found.check.signed == len(files(run)) - 1


@pytest.mark.parametrize(
    "pattern",
    [
        "report.json",
        "plan.json",
        "events.jsonl",
        "report.html",
        "evidence/*.svg",
        "evidence/*.png",
        "blobs/*",
    ],
)
@pytest.mark.parametrize("place", ["first", "middle", "last", "appended", "cut", "emptied"])
def test_a_changed_file_is_named(run: Path, keys: Path, pattern: str, place: str) -> None:
    path = first(run, pattern)
    data = bytearray(path.read_bytes())
    if place in ("first", "middle", "last"):
        data[{"first": 0, "middle": len(data) // 2, "last": -1}[place]] ^= 1
    path.write_bytes(
        {"appended": bytes(data) + b"\n", "cut": bytes(data[:-1]), "emptied": b""}.get(place, bytes(data))
    )
    found = verify_run(run, keys / "audit.pub")
    assert not found.intact
    assert found.check.changed == (path.relative_to(run).as_posix(),)
    assert found.check.genuine


@settings(
    deadline=None,
    derandomize=True,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_changed_byte_of_any_signed_file_is_found_and_named(
    data: st.DataObject, signed_run: Path, keys: Path
) -> None:
    path = data.draw(st.sampled_from(files(signed_run)))
    original = path.read_bytes()
    changed = bytearray(original)
    changed[data.draw(st.integers(0, len(original) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(changed)
    try:
        found = verify_run(signed_run, keys / "audit.pub")
    except SignatureError as refused:
        assert path.name == SIGNATURE_FILE
        assert SIGNATURE_FILE in str(refused)
    else:
        assert not found.intact
        if path.name == SIGNATURE_FILE:
            assert not found.check.genuine
        else:
            assert named(found) == {path.relative_to(signed_run).as_posix()}
    finally:
        path.write_bytes(original)


@pytest.mark.parametrize(
    "pattern", ["evidence/*.png", "report.html", "plan.json", "events.jsonl", "report.json"]
)
def test_a_missing_file_is_named(run: Path, keys: Path, pattern: str) -> None:
    path = first(run, pattern)
    path.unlink()
    assert verify_run(run, keys / "audit.pub").check.missing == (path.relative_to(run).as_posix(),)


@pytest.mark.parametrize(
    "name", ["evidence/new.png", "report.sarif", "deep/er/x", ".hidden", "evidence/.run-x"]
)
def test_an_added_file_is_named(run: Path, keys: Path, name: str) -> None:
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    (run / name).write_bytes(b"x")
    found = verify_run(run, keys / "audit.pub")
    assert found.check.added == (name,)
    assert not found.intact


def test_a_renamed_file_is_named_twice(run: Path, keys: Path) -> None:
    path = first(run, "evidence/*.png")
    path.rename(path.with_name("renamed.png"))
    found = verify_run(run, keys / "audit.pub")
    assert (found.check.missing, found.check.added) == (
        (f"evidence/{path.name}",),
        ("evidence/renamed.png",),
    )


def test_two_files_that_changed_places_are_both_named(run: Path, keys: Path) -> None:
    one, two = sorted(run.glob("evidence/*"))[:2]
    kept = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(kept)
    assert verify_run(run, keys / "audit.pub").check.changed == (
        f"evidence/{one.name}",
        f"evidence/{two.name}",
    )


def test_signed_anew_by_somebody_else_is_not_verified(run: Path, keys: Path) -> None:
    (run / "plan.json").write_bytes(b"{}")
    sign_run(run, keys / "other", replace=True)
    found = verify_run(run, keys / "audit.pub")
    assert (found.intact, found.check.expected, found.check.genuine) == (False, False, False)
    unknown = verify_run(run)
    assert (unknown.intact, unknown.check.expected) == (True, None)


def test_the_signature_of_another_run_does_not_fit(run: Path, keys: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(run, tmp_path / "other"))
    (other / "events.jsonl").write_bytes(b'{"type":"other"}\n')
    sign_run(other, keys / "audit", replace=True)
    shutil.copy(other / SIGNATURE_FILE, run / SIGNATURE_FILE)
    assert verify_run(run, keys / "audit.pub").check.changed == ("events.jsonl",)


def test_links_and_pipes_are_named_and_never_opened(
    run: Path, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    (run / "evidence" / "link.png").symlink_to(secret)
    (run / "elsewhere").symlink_to(tmp_path)
    os.mkfifo(run / "pipe")
    html_page = run / "report.html"
    (tmp_path / "same.html").write_bytes(html_page.read_bytes())
    html_page.unlink()
    html_page.symlink_to(tmp_path / "same.html")
    opened: list[Path] = []
    careful = signing._opened
    monkeypatch.setattr(signing, "_opened", lambda path: (opened.append(path), careful(path))[1])
    found = verify_run(run, keys / "audit.pub")
    assert found.odd == ("elsewhere", "evidence/link.png", "pipe", "report.html")
    assert not found.intact
    assert not {path.name for path in opened} & {"link.png", "elsewhere", "pipe", "report.html", "secret"}


def test_a_link_alone_is_enough(run: Path, keys: Path, tmp_path: Path) -> None:
    (run / "evidence" / "link.png").symlink_to(tmp_path)
    found = verify_run(run, keys / "audit.pub")
    assert (found.check.intact, found.odd, found.intact) == (True, ("evidence/link.png",), False)


def test_a_signature_that_is_a_link_is_not_followed(run: Path, keys: Path, tmp_path: Path) -> None:
    (run / SIGNATURE_FILE).rename(tmp_path / "signature")
    (run / SIGNATURE_FILE).symlink_to(tmp_path / "signature")
    with pytest.raises(SignatureError, match="cannot be read"):
        verify_run(run, keys / "audit.pub")


def test_a_file_that_becomes_a_link_while_it_is_read_is_not_followed(run: Path, tmp_path: Path) -> None:
    (run / "x").symlink_to(tmp_path)
    with pytest.raises(OSError, match=r".+"):
        signing._opened(run / "x")


def test_a_run_with_links_or_unreadable_names_is_not_signed(run: Path, keys: Path, tmp_path: Path) -> None:
    (run / "link").symlink_to(tmp_path)
    with pytest.raises(SignatureError, match="'link', which is not a file"):
        sign_run(run, keys / "audit", replace=True)
    (run / "link").unlink()
    Path(os.fsdecode(os.fsencode(run) + b"/\xff")).write_bytes(b"x")
    with pytest.raises(SignatureError, match="name that no signature can carry"):
        sign_run(run, keys / "audit", replace=True)
    assert verify_run(run, keys / "audit.pub").check.added == ("\udcff",)


def test_nothing_behind_a_link_is_read_when_signing(run: Path, keys: Path, tmp_path: Path) -> None:
    for name in ("report.json", "evidence"):
        (run / name).rename(tmp_path / name)
        (run / name).symlink_to(tmp_path / "a folder that is not there")
        with pytest.raises(SignatureError, match=f"'{name}', which is not a file"):
            sign_run(run, keys / "audit", replace=True)
        (run / name).unlink()
        (tmp_path / name).rename(run / name)


def test_a_run_whose_evidence_is_gone_is_not_signed(run: Path, keys: Path) -> None:
    first(run, "evidence/*.svg").write_bytes(b"x")
    with pytest.raises(OutputError, match="was changed"):
        sign_run(run, keys / "audit", replace=True)


def test_a_signed_run_is_signed_again_only_when_asked(run: Path, keys: Path) -> None:
    with pytest.raises(UsageError, match="--replace"):
        sign_run(run, keys / "audit")
    assert sign_run(run, keys / "audit", replace=True).intact


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "cannot be read"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b"{", "cannot be read"),
        (b"{}", "field is missing"),
    ],
)
def test_a_signature_that_is_none_says_so(run: Path, data: bytes, said: str) -> None:
    (run / SIGNATURE_FILE).write_bytes(data)
    with pytest.raises(SignatureError, match=said) as caught:
        verify_run(run)
    assert "\n" not in str(caught.value)


def test_a_signature_of_absurd_size_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing, "_MAX_SIGNATURE", 100)
    with pytest.raises(SignatureError, match="too large"):
        verify_run(run)


def test_no_signature_and_no_run_are_told_apart(run: Path, tmp_path: Path) -> None:
    (run / SIGNATURE_FILE).unlink()
    with pytest.raises(SignatureError, match="is not signed"):
        verify_run(run)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="not the directory of a run"):
        verify_run(tmp_path / "empty")
    with pytest.raises(UsageError, match="there is no run"):
        verify_run(tmp_path / "nowhere")


def test_keys_are_private_and_not_written_over(tmp_path: Path) -> None:
    made = make_keys(tmp_path / "k")
    assert made.startswith("sha256:")
    assert (tmp_path / "k").stat().st_mode & 0o777 == 0o600
    assert b"BEGIN PRIVATE KEY" in (tmp_path / "k").read_bytes()
    assert b"PRIVATE" not in (tmp_path / "k.pub").read_bytes()
    for name in ("k", "k.pub"):
        kept = (tmp_path / name).read_bytes()
        with pytest.raises(UsageError, match="not written over"):
            make_keys(tmp_path / "k")
        assert (tmp_path / name).read_bytes() == kept
    (tmp_path / "dangling.pub").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="not written over"):
        make_keys(tmp_path / "dangling")
    with pytest.raises(OutputError, match="cannot write"):
        make_keys(tmp_path / "no" / "k")


def test_loose_permissions_are_seen(tmp_path: Path) -> None:
    make_keys(tmp_path / "k")
    assert not loose_permissions(tmp_path / "k")
    (tmp_path / "k").chmod(0o640)
    assert loose_permissions(tmp_path / "k")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("audit.pub", "is a public key"),
        ("text", "is not a private key"),
        ("curve", "another kind than Ed25519"),
        ("locked", "passphrase"),
        ("nowhere", "cannot be read"),
    ],
)
def test_what_is_no_private_key_is_said(run: Path, keys: Path, tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        sign_run(run, _odd_keys(tmp_path, keys) / name, replace=True)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("audit", "is a private key"),
        ("text", "is not a public key"),
        ("curve.pub", "another kind than Ed25519"),
        ("nowhere", "cannot be read"),
    ],
)
def test_what_is_no_public_key_is_said(run: Path, keys: Path, tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        verify_run(run, _odd_keys(tmp_path, keys) / name)


def _odd_keys(folder: Path, keys: Path) -> Path:
    from cryptography.hazmat.primitives import serialization as how
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    for name in ("audit", "audit.pub"):
        shutil.copy(keys / name, folder / name)
    (folder / "text").write_text("ssh-ed25519 AAAA")
    curve = ec.generate_private_key(ec.SECP256R1())
    pem, pkcs8 = how.Encoding.PEM, how.PrivateFormat.PKCS8
    (folder / "curve").write_bytes(curve.private_bytes(pem, pkcs8, how.NoEncryption()))
    (folder / "curve.pub").write_bytes(
        curve.public_key().public_bytes(pem, how.PublicFormat.SubjectPublicKeyInfo)
    )
    locked = how.BestAvailableEncryption(b"secret")
    (folder / "locked").write_bytes(ed25519.Ed25519PrivateKey.generate().private_bytes(pem, pkcs8, locked))
    return folder
