import hashlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_parts import Store, plot, png

from reports.exhibits import Exhibits, strongest_picture
from reports.model import Evidence
from reports.pictures import sniff

SVG = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">{}</svg>'


def test_pictures_are_told_by_their_bytes_with_their_size() -> None:
    found = sniff(png(6, 3))
    assert found and (found.media_type, found.width, found.height) == ("image/png", 48, 24)
    jpeg = b"\xff\xd8\xff\xe0\x00\x04ab\xff\xc0\x00\x11\x08" + struct.pack(">HH", 20, 30) + b"\x03"
    found = sniff(jpeg)
    assert found and (found.media_type, found.width, found.height) == ("image/jpeg", 30, 20)
    found = sniff(plot(3))
    assert found and found.media_type == "image/svg+xml"


def test_an_svg_from_the_plotting_library_is_shown() -> None:
    pytest.importorskip("matplotlib")
    from io import BytesIO

    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.add_subplot()
    axes.plot([0, 1], [1, 0])
    axes.fill_between([0, 1], [1, 0], hatch="/")
    file = BytesIO()
    figure.savefig(file, format="svg")
    assert sniff(file.getvalue()) is not None


@pytest.mark.parametrize(
    "content",
    [
        "<script>alert(1)</script>",
        '<g onload="alert(1)"/>',
        '<a href="javascript:alert(1)"><text>x</text></a>',
        "<foreignObject/>",
        '<image href="http://evil.example/x.png"/>',
        '<image xlink:href="file:///etc/passwd"/>',
        '<use href="other.svg#a"/>',
        "<style>@import 'x.css';</style>",
        "<style>rect{fill:url(http://evil.example)}</style>",
        '<rect fill="url(http://evil.example/#a)"/>',
        '<set attributeName="href" to="javascript:alert(1)"/>',
        '<image href="data:image/svg+xml;base64,PHN2Zy8+"/>',
        "<unclosed>",
    ],
)
def test_an_svg_that_could_do_anything_is_no_picture(content: str) -> None:
    assert sniff(SVG.format(content).encode()) is None


def test_an_svg_with_entities_or_another_root_is_no_picture() -> None:
    assert sniff(b'<!DOCTYPE svg [<!ENTITY a "b">]>' + SVG.format("<text>&a;</text>").encode()) is None
    assert sniff(b"<html><svg/></html>") is None
    assert sniff(SVG.format("").encode("utf-16")) is None


@pytest.mark.parametrize(
    "data", [b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff", b"<svg", b"\xff\xd8\xff" + b"\xff" * 100]
)
def test_other_bytes_are_no_picture(data: bytes) -> None:
    assert sniff(data) is None


def test_a_picture_that_would_fill_memory_is_refused() -> None:
    data = png(1, 1)
    assert sniff(data[:16] + struct.pack(">II", 60_000, 60_000) + data[24:]) is None
    assert sniff(data[:16] + struct.pack(">II", 16_000, 16_000) + data[24:]) is None


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    st.binary(max_size=200),
    st.sampled_from(
        [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"<svg xmlns='http://www.w3.org/2000/svg'>"]
    ),
)
def test_no_bytes_crash_the_sniffer(tail: bytes, head: bytes) -> None:
    sniff(head + tail)


def test_each_file_is_shown_once_and_only_if_its_hash_is_right() -> None:
    store = Store()
    item = store.put("a.png", png(2, 2), "text/plain")
    exchanged = Evidence(name="b", sha256=hashlib.sha256(b"before").hexdigest(), media_type="text/plain")
    store[exchanged.sha256] = b"after"
    gone = Evidence(name="c", sha256="0" * 64, media_type="text/plain")
    exhibits = Exhibits(store.__getitem__)
    assert [e.kind for e in exhibits.take((item, item, exchanged, gone))] == ["picture", "note", "note"]
    assert exhibits.take((item,)) == []


def test_sensitive_evidence_is_not_even_fetched_unless_asked_for() -> None:
    store = Store()
    item = store.put("face.png", png(2, 2), "image/png", sensitive=True)

    def refuse(digest: str) -> bytes:
        raise AssertionError("fetched")

    assert Exhibits(refuse).take((item,))[0].kind == "note"
    assert Exhibits(store.__getitem__, show_sensitive=True).take((item,))[0].kind == "picture"


def test_the_strongest_picture_belongs_to_the_worst_finding() -> None:
    from report_samples import accept, inconclusive, reject

    found = strongest_picture(*reject())
    assert found and found.evidence.name == "shift.svg" and "stands" in found.evidence.caption
    assert strongest_picture(*accept()) is not None
    assert strongest_picture(*inconclusive()) is None
