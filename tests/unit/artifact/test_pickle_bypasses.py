"""Every known way around a pickle scanner is seen; the payload is named wherever it hides."""

from __future__ import annotations

import io
import zipfile
import zlib
from typing import Any

import pytest
from artifact_judging import codes, disallowed, report_of

from auditor.artifact.limits import Limits
from auditor.proving.scan import craft
from auditor.proving.scan.hostile_archives import ARCHIVES
from auditor.proving.scan.hostile_imports import IMPORTS
from auditor.proving.scan.hostile_pickles import PICKLES
from auditor.proving.scan.specimen import Specimen

SYSTEM = "os.system"
WITH_PICKLES = [each for each in (*PICKLES, *IMPORTS, *ARCHIVES) if each.refers]


@pytest.mark.parametrize("specimen", WITH_PICKLES, ids=lambda each: each.slug)
def test_no_bypass_gets_through_and_the_payload_is_named(specimen: Specimen) -> None:
    assert specimen.refers in disallowed(specimen.data)
    assert report_of(specimen.data).verdict == "disallowed"


@pytest.mark.parametrize("specimen", [each for each in ARCHIVES if each.code], ids=lambda each: each.slug)
def test_archive_tricks_do_not_go_unnamed(specimen: Specimen) -> None:
    assert specimen.code in codes(specimen.data)
    assert report_of(specimen.data).verdict != "allowed"


@pytest.mark.parametrize(
    ("trick", "code"),
    [
        (lambda ok: craft.patch_local(ok, "archive/data.pkl", 30, b"archive/data.txt"), "zip.mismatch"),
        (lambda ok: craft.patch_central(ok, "archive/data.pkl", 16, b"\1\2\3\4"), "zip.mismatch"),
        (lambda ok: ok + b"tail", "zip.trailing_bytes"),
        (
            lambda ok: craft.zipped({"../a": b"x", "archive/data.pkl": craft.pickled(b"N")}),
            "zip.path_traversal",
        ),
        (lambda ok: craft.zipped({"a": b"x", "A": b"y", "archive/data.pkl": b"N."}), "zip.duplicate_name"),
        (lambda ok: ok[: ok.index(b"PK\x01\x02")], "zip.unreadable"),
    ],
)
def test_container_tricks_around_a_harmless_pickle_are_named(trick: Any, code: str) -> None:
    data = trick(craft.embedding_file())
    assert code in codes(data)
    assert report_of(data).verdict == ("allowed" if code == "zip.trailing_bytes" else "broken")


def test_a_member_that_the_directory_does_not_list_is_found() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", craft.embedding_pickle())
        archive.writestr("hidden.pkl", craft.pickled(craft.PAYLOAD))
        archive.writestr("archive/data/0", bytes(16))
        archive.filelist = [info for info in archive.filelist if info.filename != "hidden.pkl"]
    assert SYSTEM in disallowed(file.getvalue())
    assert "zip.unlisted_bytes" in codes(file.getvalue())


def test_unknown_compression_and_containers_are_not_passed_over() -> None:
    packed = craft.zipped({"archive/data.pkl": craft.pickled(craft.PAYLOAD)}, zipfile.ZIP_BZIP2)
    assert report_of(packed).verdict == "broken"
    assert report_of(b"7z\xbc\xaf\x27\x1c" + bytes(40)).verdict == "limit"
    assert report_of(craft.zipped({"model.pt": b"7z\xbc\xaf\x27\x1c" + bytes(40)})).verdict == "limit"
    assert report_of(zlib.compress(b"x", wbits=31)).verdict == "limit"


def test_limits_end_in_their_own_verdict() -> None:
    deep = craft.embedding_file()
    for _ in range(4):
        deep = craft.zipped({"inner.zip": deep})
    bomb = craft.zipped({"archive/data.pkl": bytes(17 << 20)}, zipfile.ZIP_DEFLATED)
    assert report_of(deep).verdict == "limit"
    assert report_of(bomb).verdict == "limit"
    assert report_of(craft.pickled(b"N0" * 1000, b"N"), Limits(pickle_opcodes=100)).verdict == "limit"
    assert report_of(craft.pickled(craft.text("x" * 1000)), Limits(pickle_bytes=500)).verdict == "limit"
    assert report_of(craft.embedding_file(), Limits(file_bytes=100)).verdict == "limit"


def test_tensors_outside_their_storage_are_named() -> None:
    short = craft.torch_zip(craft.embedding_pickle(), {"0": bytes(12)})
    none = craft.torch_zip(craft.embedding_pickle(), {})
    wide = craft.torch_zip(craft.pickled(craft.tensor("0", 4, (2, 4), (4, 1))), {"0": bytes(16)})
    for data in (short, none, wide):
        assert "torch.tensor_bounds" in codes(data)
        assert report_of(data).verdict == "broken"
