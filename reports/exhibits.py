"""Evidence made ready to be shown: checked against its hash, told by its bytes, each file once."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from reports.model import AuditReport, Evidence
from reports.numbers import bytes_size
from reports.pictures import Picture, sniff
from reports.text import inert_lines
from reports.words import ordered_findings

__all__ = ["MAX_PICTURE_BYTES", "MAX_TEXT", "Exhibit", "Exhibits", "strongest_picture"]

MAX_PICTURE_BYTES = 8 * 1024 * 1024
MAX_TEXT = 20_000


@dataclass(frozen=True)
class Exhibit:
    """One piece of evidence: a picture, a text, or a note saying why it is not shown."""

    evidence: Evidence
    kind: Literal["picture", "text", "note"]
    picture: Picture | None = None
    data: bytes = b""
    text: str = ""

    @property
    def uri(self) -> str:
        """The picture as a ``data:`` URI."""
        media_type = self.picture.media_type if self.picture else "application/octet-stream"
        return f"data:{media_type};base64,{base64.b64encode(self.data).decode('ascii')}"

    @property
    def scale(self) -> int:
        """Whole factor that brings a small raster picture to a size people can see; 1 for all others."""
        if not self.picture or not self.picture.width or not self.picture.height:
            return 1
        return max(1, min(4, 256 // max(self.picture.width, self.picture.height)))


class Exhibits:
    """Hands out each file of the evidence store once, in the order asked for."""

    def __init__(self, evidence: Callable[[str], bytes], show_sensitive: bool = False) -> None:
        self._evidence = evidence
        self._show_sensitive = show_sensitive
        self._shown: set[str] = set()

    def take(self, items: Iterable[Evidence]) -> list[Exhibit]:
        """Exhibits of those items that were not handed out before."""
        out = []
        for item in items:
            if item.sha256 not in self._shown:
                self._shown.add(item.sha256)
                out.append(exhibit(item, self._evidence, self._show_sensitive))
        return out


def exhibit(item: Evidence, evidence: Callable[[str], bytes], show_sensitive: bool = False) -> Exhibit:
    """Fetches one file and decides how it may be shown; what cannot be shown becomes a note that says so."""
    if item.sensitive and not show_sensitive:
        return Exhibit(item, "note", text="Sensitive: kept in the evidence folder and not shown here.")
    try:
        data = evidence(item.sha256)
    except (KeyError, OSError):
        return Exhibit(item, "note", text="Missing: the evidence folder does not hold this file.")
    if hashlib.sha256(data).hexdigest() != item.sha256:
        return Exhibit(
            item,
            "note",
            text="Not shown: the stored file is not the one that was recorded (its hash differs).",
        )
    picture = sniff(data)
    if picture and len(data) > MAX_PICTURE_BYTES:
        return Exhibit(
            item, "note", text=f"Not shown: a picture of {bytes_size(len(data))}; see the evidence folder."
        )
    if picture:
        return Exhibit(item, "picture", picture=picture, data=data)
    text = _text(data)
    if text is None:
        return Exhibit(
            item, "note", text=f"Not shown: {bytes_size(len(data))} of binary data; see the evidence folder."
        )
    return Exhibit(item, "text", text=text)


def strongest_picture(report: AuditReport, evidence: Callable[[str], bytes]) -> Exhibit | None:
    """The first picture that may be shown, of the findings in order and then of the results."""
    sources = [finding.evidence for finding in ordered_findings(report)]
    sources += [result.evidence for result in report.results]
    shown = (exhibit(item, evidence) for items in sources for item in items)
    return next((each for each in shown if each.kind == "picture"), None)


def _text(data: bytes) -> str | None:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else inert_lines(text, MAX_TEXT)
