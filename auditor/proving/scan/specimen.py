"""A file or folder with known truth."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Specimen", "one_file", "write_specimens"]


@dataclass(frozen=True)
class Specimen:
    """One specimen; nothing in it does harm when it is loaded by mistake (commands are ``true``).

    Attributes:
        name: what is wrong with it, or what it is if it is benign; a phrase, unique in its zoo.
        theme: which group of the zoo it belongs to.
        stands_for: the published bypass, advisory or issue behind it, or the kind of file.
        files: makes its files by relative path; one file stands for itself, several for their folder.
        refers: a disallowed reference that the pickle guard must name; empty if there is no pickle in it.
        code: a problem that must be named; empty if any will do.
    """

    name: str
    theme: str
    stands_for: str
    files: Callable[[], Mapping[str, bytes]]
    refers: str = ""
    code: str = ""

    @property
    def slug(self) -> str:
        """Its folder: ASCII letters, digits and hyphens."""
        return re.sub(r"[^A-Za-z0-9_]+", "-", f"{self.theme} {self.name}").strip("-")

    @property
    def data(self) -> bytes:
        """The bytes of a specimen that is one file."""
        (data,) = self.files().values()
        return data

    def write(self, folder: Path) -> Path:
        """Writes it into a folder of its own; returns what a scanner is pointed at."""
        target = folder / self.slug
        files = self.files()
        for name, data in files.items():
            path = target / name
            if not path.is_file() or path.stat().st_size != len(data):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        return target / next(iter(files)) if len(files) == 1 else target


def one_file(name: str, data: bytes | Callable[[], bytes]) -> Callable[[], Mapping[str, bytes]]:
    """Files of a specimen that is one file; large ones are made when they are asked for."""
    return lambda: {name: data if isinstance(data, bytes) else data()}


def write_specimens(specimens: tuple[Specimen, ...], folder: Path) -> dict[str, Path]:
    """Writes all of them; returns what to scan, by slug."""
    paths = {specimen.slug: specimen.write(folder) for specimen in specimens}
    if len(paths) != len(specimens):
        raise ValueError("two specimens have the same slug")
    return paths
