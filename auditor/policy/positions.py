"""YAML read into plain values, with the line of every key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from auditor.errors import PolicyError
from auditor.text import inert

__all__ = ["Lines", "line_of", "read_yaml"]

Lines = dict[tuple[str | int, ...], int]
"""Line, from 1, of each key or item by its path."""

LARGEST = 256 * 1024


def line_of(location: tuple[str | int, ...], lines: Lines) -> int:
    """The line of a part of the document, or of the innermost part around it that is in the file."""
    while location and location not in lines:
        location = location[:-1]
    return lines.get(location, 1)


def read_yaml(path: Path, what: str = "policy") -> tuple[Any, Lines]:
    """The document of a YAML file as plain values, and where each part of it stands.

    Keys must be text and may occur once; anchors, aliases and tags are refused: they say nothing that a
    policy needs, and let a small file grow without bound.

    Args:
        path: the file.
        what: what messages call it.

    Raises:
        PolicyError: the file cannot be read or is not such YAML; file and line are named.
    """
    shown = inert(str(path), 300)
    try:
        size = path.stat().st_size
        text = path.read_text(encoding="utf-8") if size <= LARGEST else ""
    except OSError as problem:
        raise PolicyError(
            f"cannot read the {what} {shown}: {(problem.strerror or 'error').lower()}"
        ) from problem
    except UnicodeDecodeError as problem:
        raise PolicyError(f"the {what} {shown} is not text in UTF-8") from problem
    if size > LARGEST:
        raise PolicyError(f"the {what} {shown} is larger than {LARGEST // 1024} kB")
    lines: Lines = {}
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        value = _plain(loader, root, (), lines, set(), shown) if root is not None else {}
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        line = mark.line + 1 if mark else 1
        raise PolicyError(
            f"{shown}, line {line}: not YAML: {inert(problem.problem or 'unreadable')}"
        ) from problem
    except (yaml.YAMLError, ValueError) as problem:
        raise PolicyError(f"{shown}: not YAML: {inert(str(problem).splitlines()[0])}") from problem
    except RecursionError as problem:
        raise PolicyError(f"{shown}: nested too deeply for a {what}") from problem
    return value, lines


def _plain(
    loader: yaml.SafeLoader,
    node: yaml.Node,
    path: tuple[str | int, ...],
    lines: Lines,
    seen: set[int],
    shown: str,
) -> Any:
    line = node.start_mark.line + 1
    lines.setdefault(path, line)
    if id(node) in seen:
        raise PolicyError(
            f"{shown}, line {line}: anchors and aliases are not read; write the value out"
        )
    seen.add(id(node))
    if not node.tag.startswith("tag:yaml.org,2002:") or node.tag.count("/") > 0:
        raise PolicyError(f"{shown}, line {line}: the tag '{inert(node.tag)}' is not read")
    if isinstance(node, yaml.SequenceNode):
        return [
            _plain(loader, item, (*path, index), lines, seen, shown) for index, item in enumerate(node.value)
        ]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node)
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        at = key_node.start_mark.line + 1
        key = key_node.value
        if not isinstance(key_node, yaml.ScalarNode) or not isinstance(key, str):
            raise PolicyError(f"{shown}, line {at}: a key must be text")
        if key in found:
            raise PolicyError(f"{shown}, line {at}: the key '{inert(key)}' occurs twice")
        lines[(*path, key)] = at
        found[key] = _plain(loader, value_node, (*path, key), lines, seen, shown)
    return found
