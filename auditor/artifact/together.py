"""Files of one folder that are used together: several methods leave weights beside a word, or two kinds of weights.

They are one subject only where every loader would have to be told of each of them, so that no other combination is what
runs: no module and no word is in two of them, and none that changes weights has a name by which loaders would take it
alone. Whatever else lies in a folder is left to :func:`auditor.artifact.identify.identify`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from auditor.artifact.identify import PREFERRED, BaseModules, Identified, identify
from auditor.artifact.limits import DEFAULT_LIMITS, Limits
from auditor.artifact.model_dir import PICKLE_KINDS, WEIGHT_KINDS, file_problems, list_files
from auditor.artifact.problems import problem
from auditor.artifact.records import FileRecord, record_file
from auditor.artifact.sniff import Kind, sniff
from auditor.errors import AuditorError
from auditor.text import inert

__all__ = ["identify_parts"]

_INDEX, _CONFIG = "model_index.json", "adapter_config.json"


def identify_parts(
    path: str | Path, limits: Limits = DEFAULT_LIMITS, base: BaseModules | None = None
) -> tuple[Identified, ...]:
    """Says what a path is made of: the parts of a folder that are used together, or what it is as a whole.

    A folder that holds nothing but one model folder stands for it.

    Args:
        path: a file or a folder.
        limits: caps on what is read.
        base: see :func:`auditor.artifact.identify.identify`.

    Returns:
        The parts, weights before words, each with the other files' names among its problems; whoever asked closes them.

    Raises:
        AuditorError: see :func:`auditor.artifact.identify.identify`.
    """
    path = Path(path)
    if not path.is_dir() or (path / _INDEX).is_file() or (path / _CONFIG).is_file():
        return (identify(path, limits, base),)
    weights = {
        file.name: kind
        for file in sorted(path.iterdir())
        if file.is_file() and (kind := sniff(file).kind) in WEIGHT_KINDS
    }
    if not weights:
        model = _only_model(path)
        return (
            (identify(path, limits, base),)
            if model is None
            else (_beside(path, identify(model, limits, base)),)
        )
    tensors = [name for name, kind in weights.items() if kind is Kind.SAFETENSORS]
    # A pickle with a loader's name may be what is loaded; that of an optimiser's state is not.
    loadable = [name for name in weights if name not in tensors and name in PREFERRED]
    if (
        len(tensors) < 2
        or loadable
        or any(kind not in PICKLE_KINDS for n, kind in weights.items() if n not in tensors)
    ):
        return (identify(path, limits, base),)
    return _together(path, tensors, [n for n in weights if n not in tensors], limits, base) or (
        identify(path, limits, base),
    )


def _only_model(folder: Path) -> Path | None:
    inside = [each for each in sorted(folder.iterdir()) if (each / _INDEX).is_file()]
    return inside[0] if len(inside) == 1 and not inside[0].is_symlink() else None


def _beside(folder: Path, model: Identified) -> Identified:
    """The model with what is odd about the files around it."""
    inside = f"{model.path.name}/"
    around = tuple(name for name in list_files(folder) if not name.startswith(inside))
    return replace(model, problems=(*model.problems, *file_problems(folder, around)))


def _together(
    folder: Path, names: Sequence[str], others: Sequence[str], limits: Limits, base: BaseModules | None
) -> tuple[Identified, ...]:
    """The files as parts, or nothing where they are not certain to be used together."""
    found: list[Identified] = []
    try:
        for name in names:
            found.append(identify(folder / name, limits, base))
        if _are_one(found):
            found.sort(key=lambda part: not _changes_weights(part))
            extra = tuple(record_file(folder / name, limits) for name in others)
            return tuple(_told(part, found, extra if part is found[0] else ()) for part in found)
    except AuditorError:
        # What is wrong with a file is said by whoever reads it as the one that counts.
        pass
    except BaseException:
        _close(found)
        raise
    _close(found)
    return ()


def _are_one(parts: Sequence[Identified]) -> bool:
    keys: list[tuple[str, ...]] = []
    for part in parts:
        if part.adapter is None:
            return False
        keys += [(component, path) for component, path, _ in part.adapter.modules()]
        keys += [(token,) for token in part.adapter.embeddings]
        keys += [("",)] if part.adapter.endings is not None else []
    alone = [p for p in parts if _changes_weights(p) and p.path.name in PREFERRED]
    with_weights = [p for p in parts if _changes_weights(p)]
    # A word leaves every prompt without it as it was: beside weights that are taken alone it hides nothing of them.
    return len(set(keys)) == len(keys) and (not alone or with_weights == alone)


def _changes_weights(part: Identified) -> bool:
    return part.adapter is not None and part.adapter.module_count > 0


def _told(part: Identified, parts: Sequence[Identified], extra: tuple[FileRecord, ...]) -> Identified:
    """The part with what is to be known of its folder, which the first part of it carries."""
    folder = part.path.parent
    with_it = ", ".join(f"'{inert(other.path.name, 60)}'" for other in parts if other is not part)
    told = [
        problem("folder.together", "info", f"read together with {with_it}; without it nothing was tested")
    ]
    if part is parts[0]:
        told += file_problems(folder, list_files(folder))
        if any(record.refused for record in extra):
            detail = "another file of the folder holds a pickle that is not allowed; a loader may open it"
            told.append(problem("folder.refused_file", "high", detail))
    return replace(part, files=(*part.files, *extra), problems=(*part.problems, *told))


def _close(parts: Sequence[Identified]) -> None:
    for part in parts:
        part.close()
