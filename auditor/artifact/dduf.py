"""DDUF: a diffusers model folder in one uncompressed zip archive. Named, checked against its rules, not unpacked.

Rules as in the Hub's documentation: members are stored, never compressed; ``model_index.json`` stands at the
top; folders are one level deep; members end in .json, .model, .safetensors or .txt.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from auditor.artifact.byte_source import ByteSource, open_source
from auditor.artifact.limits import DEFAULT_LIMITS, Limits
from auditor.artifact.problems import Problem, problem
from auditor.artifact.zip_reader import STORED, Archive, member_chunks, read_archive
from auditor.errors import MalformedArtifact
from auditor.text import inert

__all__ = ["INDEX", "DdufSummary", "read_dduf"]

INDEX = "model_index.json"
_ENDINGS = (".json", ".model", ".safetensors", ".txt")
_LONGEST_INDEX = 1 << 20
_SHOWN = 5


@dataclass(frozen=True)
class DdufSummary:
    """What the archive says it holds.

    Attributes:
        pipeline: the class named in ``model_index.json``, made inert; empty if there is none.
        components: names of the components, made inert.
        problems: broken rules of the format.
    """

    pipeline: str
    components: tuple[str, ...]
    problems: tuple[Problem, ...]

    @property
    def told(self) -> str:
        """The summary as a part of a sentence."""
        whose = f"a {self.pipeline}" if self.pipeline else "a model that names no pipeline class"
        return f"{whose} with {', '.join(self.components[:12]) or 'no components'}"


def read_dduf(path: Path, limits: Limits = DEFAULT_LIMITS) -> DdufSummary:
    """Reads the directory of an archive and its ``model_index.json``, at most 1 MiB of that.

    Raises:
        MalformedArtifact: the archive is damaged, or its index is missing, compressed or no JSON object.
    """
    with open_source(path) as source:
        archive = read_archive(source, limits)
        index = _index(source, archive, inert(path.name))
    pipeline = index.get("_class_name")
    components = [
        inert(name, 40)
        for name, value in index.items()
        if isinstance(value, list) and not name.startswith("_")
    ]
    shown = inert(pipeline, 60) if isinstance(pipeline, str) else ""
    return DdufSummary(shown, tuple(components), tuple(_broken_rules(archive)))


def _index(source: ByteSource, archive: Archive, shown: str) -> dict[str, object]:
    member = next((m for m in archive.members if m.name == INDEX and m.listed), None)
    if member is None or member.method != STORED:
        raise MalformedArtifact(f"'{shown}' has no uncompressed {INDEX}; it is no DDUF archive")
    data = b""
    for chunk in member_chunks(source, member):
        data += chunk
        if len(data) > _LONGEST_INDEX:
            break
    try:
        index = json.loads(data.decode("utf-8")) if len(data) <= _LONGEST_INDEX else None
    except (ValueError, RecursionError):
        index = None
    if not isinstance(index, dict):
        raise MalformedArtifact(f"{INDEX} in '{shown}' is no JSON object of at most {_LONGEST_INDEX} bytes")
    return index


def _broken_rules(archive: Archive) -> Iterator[Problem]:
    names = [member.name for member in archive.members if not member.name.endswith("/")]
    odd = {
        "are of a kind that DDUF does not allow": [n for n in names if not n.endswith(_ENDINGS)],
        "stand deeper than one folder": [n for n in names if n.count("/") > 1 or "\\" in n],
        "are compressed": [m.name for m in archive.members if m.method != STORED],
    }
    for rule, broken in odd.items():
        if broken:
            shown = ", ".join(f"'{name}'" for name in broken[:_SHOWN])
            yield problem("dduf.rule", "medium", f"{len(broken)} members {rule}: {shown}")
