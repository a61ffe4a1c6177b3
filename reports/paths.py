"""Paths as others may see them: relative, percent-encoded, never the layout of somebody's disk."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from urllib.parse import quote

__all__ = ["Places", "is_absolute", "last_part", "public_ref", "relative_uri"]

_WINDOWS = re.compile(r"^(?:[A-Za-z]:[\\/]|\\\\)")
_UNNAMED = "unnamed"


@dataclass(frozen=True)
class Places:
    """The audited paths of one or more reports.

    Attributes:
        uris: relative, percent-encoded URI of each path.
        folders: absolute folders that stand in front of audited files, longest first; no text shows them.
    """

    uris: Mapping[str, str]
    folders: tuple[str, ...]

    @classmethod
    def of(cls, paths: Iterable[str]) -> Places:
        """Relative paths stay; absolute ones become relative to the deepest folder that they share."""
        known = list(dict.fromkeys(paths))
        absolute = [path for path in known if is_absolute(path)]
        parents = [_parts(path)[:-1] for path in absolute]
        shared = sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, zip(*parents, strict=False)))
        uris = {path: relative_uri(path, shared) for path in known}
        folders = {path[: len(path) - len(last_part(path))] for path in absolute}
        return cls(uris, tuple(sorted((each for each in folders if len(each) > 1), key=len, reverse=True)))

    def uri(self, path: str) -> str:
        """The URI of an audited path; also where nothing was audited there is a place to point at."""
        return self.uris.get(path, _UNNAMED)

    def hide(self, text: str) -> str:
        """The text without absolute folders of audited files."""
        if "/" not in text and "\\" not in text:
            return text
        for folder in self.folders:
            text = text.replace(folder, "")
        return text


def relative_uri(path: str, shared: int | None = None) -> str:
    """A relative URI reference that stays below its base, whatever the path is called.

    Args:
        path: as received, untrusted.
        shared: leading parts to leave out of an absolute path; all but the last without a number.

    Returns:
        Percent-encoded segments; a path that climbs with ``..`` is told by its last part alone.
    """
    parts = _parts(path)
    if is_absolute(path):
        parts = parts[-1:] if shared is None else parts[shared:]
    if ".." in parts:
        parts = [part for part in parts if part != ".."][-1:]
    return "/".join(quote(part, safe="", errors="replace") for part in parts) or _UNNAMED


def is_absolute(path: str) -> bool:
    """Whether a path starts at a root, a drive or a share."""
    return path.startswith("/") or bool(_WINDOWS.match(path))


def last_part(path: str) -> str:
    """The last part of a path, or the whole if it has none."""
    parts = _parts(path)
    return parts[-1] if parts else path


def public_ref(ref: str) -> str:
    """A hub id or relative path as it is, an absolute path by its last part."""
    return last_part(ref) if is_absolute(ref) else ref


def _parts(path: str) -> list[str]:
    # A backslash separates on Windows only; elsewhere it is a letter of a name, or an escape made by us.
    parts = re.split(r"[/\\]" if _WINDOWS.match(path) else "/", path)
    return [part for part in parts if part not in ("", ".")]
