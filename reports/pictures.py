"""What an evidence file really is: pictures are told by their bytes, and only harmless ones are shown."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from xml.etree import ElementTree

__all__ = ["Picture", "sniff"]

_PNG = b"\x89PNG\r\n\x1a\n"
_MAX_SIDE = 16_384
_MAX_PIXELS = 64_000_000
_ACTIVE = {
    "script",
    "foreignobject",
    "iframe",
    "object",
    "embed",
    "a",
    "set",
    "animate",
    "animatemotion",
    "animatetransform",
    "handler",
    "listener",
    "audio",
    "video",
}


@dataclass(frozen=True)
class Picture:
    """A picture that may be shown: its true media type, and its size in pixels where that is known."""

    media_type: str
    width: int | None = None
    height: int | None = None


def sniff(data: bytes) -> Picture | None:
    """Tells PNG, JPEG and passive SVG by content, whatever the file was called.

    Args:
        data: the bytes of an evidence file.

    Returns:
        The picture, or None for anything else: another format, a picture too large to open safely (more than
        64 megapixels), an SVG that carries scripts, entities, links or references to other files.
    """
    if data.startswith(_PNG):
        return _png(data)
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data)
    return Picture("image/svg+xml") if _is_passive_svg(data) else None


def _png(data: bytes) -> Picture | None:
    if len(data) < 33 or data[12:16] != b"IHDR":
        return None
    width, height = struct.unpack(">II", data[16:24])
    return _sized("image/png", width, height)


def _jpeg(data: bytes) -> Picture | None:
    position = 2
    while position + 9 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[position + 5 : position + 9])
            return _sized("image/jpeg", width, height)
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return None


def _sized(media_type: str, width: int, height: int) -> Picture | None:
    fits = 0 < width <= _MAX_SIDE and 0 < height <= _MAX_SIDE and width * height <= _MAX_PIXELS
    return Picture(media_type, width, height) if fits else None


def _is_passive_svg(data: bytes) -> bool:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return False
    # Entities are where an XML parser can be made to work for hours; no plot needs one.
    if "<svg" not in text or "<!ENTITY" in text.upper():
        return False
    try:
        root = ElementTree.fromstring(text.encode("utf-8"))
    except (ElementTree.ParseError, LookupError, ValueError):
        return False
    return _local(root.tag) == "svg" and all(_is_passive(element) for element in root.iter())


def _is_passive(element: ElementTree.Element) -> bool:
    if _local(element.tag) in _ACTIVE:
        return False
    rules = (element.text or "").lower() if _local(element.tag) == "style" else ""
    if "@import" in rules or not _stays_inside(rules):
        return False
    return all(_is_passive_attribute(_local(name), value.strip().lower()) for name, value in element.items())


def _is_passive_attribute(name: str, value: str) -> bool:
    if name.startswith("on"):
        return False
    if name in ("href", "src"):
        return value.startswith(("#", "data:image/png;base64,", "data:image/jpeg;base64,"))
    return _stays_inside(value)


def _stays_inside(style: str) -> bool:
    return style.count("url(") == style.count("url(#")


def _local(tag: object) -> str:
    # Comments and processing instructions have a function for a tag.
    return str(tag).rpartition("}")[2].lower() if isinstance(tag, str) else ""
