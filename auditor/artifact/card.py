"""The model card: YAML front matter of a ``README.md``, read as claims."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from auditor.artifact.problems import Problem, problem

__all__ = ["card_beside", "parse_front_matter"]

_LONGEST = 64 << 10
_DEEPEST = 20


def card_beside(path: Path) -> tuple[dict[str, Any], tuple[Problem, ...]]:
    """The front matter of the ``README.md`` in a folder, or beside a file; empty if there is none."""
    card = (path if path.is_dir() else path.parent) / "README.md"
    if card.is_symlink() or not card.is_file():
        return {}, ()
    with card.open("rb") as file:
        text = file.read(_LONGEST + 1).decode("utf-8", errors="replace")
    return parse_front_matter(text)


def parse_front_matter(text: str) -> tuple[dict[str, Any], tuple[Problem, ...]]:
    """Parses the block between two ``---`` lines at the start of a text.

    Aliases are refused (they can stand for an exponential amount of data), as are tags, depth and length
    beyond what a card needs.

    Returns:
        The mapping, empty if there is none or if it is unreadable, and what was wrong with it.
    """
    lines = text.lstrip("\ufeff").splitlines()
    if not lines or lines[0].strip() != "---":
        return {}, ()
    end = next((i for i, line in enumerate(lines[1:], start=1) if line.strip() == "---"), None)
    if end is None:
        return {}, (problem("card.front_matter", "low", "the front matter of the model card has no end"),)
    parsed = _safe_yaml("\n".join(lines[1:end]))
    if not isinstance(parsed, dict):
        return {}, (
            problem("card.front_matter", "low", "the front matter of the model card is no readable mapping"),
        )
    return {str(key): value for key, value in parsed.items()}, ()


def _safe_yaml(text: str) -> Any:
    import yaml

    try:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or depth > _DEEPEST:
                return None
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
