"""Which artifacts are meant by the paths on a command line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from auditor.errors import UnsupportedArtifact, UsageError
from auditor.text import inert

__all__ = ["artifacts_in", "check_paths"]

_MODEL_MARKS = ("model_index.json", "adapter_config.json")


def check_paths(paths: Sequence[Path]) -> None:
    """Refuses what cannot be meant, before anything is read.

    Raises:
        UsageError: a path does not exist, or is a file without a byte.
    """
    for path in paths:
        if not path.exists():
            broken = " (a link that leads nowhere)" if path.is_symlink() else ""
            raise UsageError(f"there is no '{inert(str(path), 300)}'{broken}; check the path")
        if path.is_file() and path.stat().st_size == 0:
            raise UsageError(f"'{inert(str(path), 300)}' is empty; the download may have failed")


def artifacts_in(path: Path) -> list[Path]:
    """A file stands for itself; a folder for itself if it is a model, else for the files and models in it.

    Raises:
        UnsupportedArtifact: a folder without anything that could be a model.
    """
    if not path.is_dir() or _is_model(path):
        return [path]
    found = list(_walk(path))
    if not found:
        raise UnsupportedArtifact(
            f"'{inert(str(path), 300)}' holds no model: no weight file and no model folder"
        )
    return found


def _is_model(folder: Path) -> bool:
    return any((folder / mark).is_file() for mark in _MODEL_MARKS)


def _walk(folder: Path) -> Iterator[Path]:
    from auditor.artifact.sniff import Kind, sniff

    beside_the_point = {Kind.TEXT, Kind.IMAGE, Kind.HTML, Kind.EMPTY, Kind.UNKNOWN}
    for path in sorted(folder.iterdir()):
        if path.is_symlink() and not path.exists():
            continue
        if path.is_dir() and not path.is_symlink() and path.name != ".git":
            yield from [path] if _is_model(path) else _walk(path)
        elif path.is_file() and sniff(path).kind not in beside_the_point:
            yield path
